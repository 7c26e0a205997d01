"""What the scanners have in common: their options, the parts of a text that are classified, and the two sides."""

import logging
from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

from rejection_client._client import RejectionClient
from rejection_client._documents import sentence_spans
from rejection_client._prediction import Prediction
from rejection_client.errors import UnexpectedAnswerError
from rejection_client.llm_guard._rules import Rule, Verdict

MatchType = Literal["full", "sentence", "chunks", "truncate_head_tail"]

CHUNK, OVERLAP = 256, 25
"""Characters of a chunk, and of it those that the next has, too."""
ENDS = (CHUNK - 3) // 2
"""Characters that are left of the start and of the end of a text longer than a chunk, with three dots between."""

_log = logging.getLogger(__name__)


class Scanner:
    """One of LLM Guard's scanners, whose model is on the server."""

    rule: ClassVar[Rule]
    threshold: ClassVar[float]
    """The one that LLM Guard's scanner has unless it is told another."""

    def __init__(
        self,
        client: RejectionClient,
        *,
        model: str | None = None,
        threshold: float | None = None,
        match_type: MatchType = "full",
    ) -> None:
        """Set the scanner up; nothing is sent yet.

        `model` is the name on the server, None the client's own. A score above `threshold` (above 0, at most 1) is a
        risk. `match_type` says what is classified: the text as a whole ("full") or its sentences, split as LLM Guard
        does, with NLTK's English Punkt model. LLM Guard's own enumerations are taken, too. The client stays the
        caller's to close. Raises ValueError for another threshold or `match_type`.
        """
        threshold = self.threshold if threshold is None else threshold
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; give a probability above 0, at most 1")
        kind = getattr(match_type, "value", match_type)
        if kind == "truncate_token_head_tail" and "truncate_head_tail" in self.rule.match_types:
            raise ValueError(f"match_type '{kind}' cuts tokens, which are the server's; give 'truncate_head_tail'")
        if kind not in self.rule.match_types:
            raise ValueError(f"match_type is '{kind}'; give one of {', '.join(self.rule.match_types)}")
        self._client = client
        self._model = model
        self._threshold = threshold
        self._match_type = kind
        self._labels: Collection[str] | None = self.rule.labels
        self._is_checked = self.rule.function is None

    def _judge(self, text: str) -> Verdict:
        is_valid, risk = self.rule.judge(
            self._predictions(parts(text, self._match_type)), self._labels, self._threshold
        )
        if not is_valid:
            _log.info("%s: risk %.1f", type(self).__name__, risk)
        return is_valid, risk

    def _predictions(self, texts: Sequence[str]) -> list[Prediction]:
        self._check_function()
        if self._model is None:
            return self._client.classify_many(texts, max_length=self.rule.max_length)
        results = self._client.classify_all(texts, [self._model], max_length=self.rule.max_length)
        return [result.unwrap() for result in results[self._model]]

    def _check_function(self) -> None:
        if self._is_checked:
            return
        told = self._client.model_info(self._model)
        if told.function_to_apply not in (None, self.rule.function):
            raise UnexpectedAnswerError(
                f"the scores of '{told.name}' are made by {told.function_to_apply}, and {type(self).__name__} goes by "
                f"{self.rule.function}: prepare the model with a problem_type in its config.json that says so"
            )
        self._is_checked = True


class InputScanner(Scanner):
    """Scans prompts."""

    def scan(self, prompt: str) -> tuple[str, bool, float]:
        """Scan a prompt.

        Returns the prompt unchanged, whether it is valid, and the risk: -1 to 1, above 0 where it is not. Raises a
        `RejectionError`.
        """
        if not prompt.strip():
            return prompt, True, -1.0
        return prompt, *self._judge(prompt)


class OutputScanner(Scanner):
    """Scans what a language model answered."""

    reads_prompt: ClassVar[bool] = False
    """Whether the prompt is classified before the output, on a line of its own."""

    def scan(self, prompt: str, output: str) -> tuple[str, bool, float]:
        """Scan an output.

        Returns the output unchanged, whether it is valid, and the risk: -1 to 1, above 0 where it is not. Raises a
        `RejectionError`.
        """
        if not output.strip():
            return output, True, -1.0
        return output, *self._judge(f"{prompt}\n{output}" if self.reads_prompt else output)


class ValidLanguages(Scanner):
    """What the scanners of languages have on top."""

    def __init__(
        self,
        client: RejectionClient,
        valid_languages: Sequence[str],
        *,
        model: str | None = None,
        threshold: float | None = None,
        match_type: MatchType = "full",
    ) -> None:
        """Set the scanner up, as the others; `valid_languages` are labels of the model, such as "en", one at least."""
        if isinstance(valid_languages, str) or not valid_languages:
            raise ValueError(f"valid_languages is {valid_languages!r}; give the model's labels, such as ['en', 'de']")
        super().__init__(client, model=model, threshold=threshold, match_type=match_type)
        self._labels = frozenset(valid_languages)


def parts(text: str, match_type: str) -> list[str]:
    """What is classified of a text."""
    if match_type == "sentence":
        text = text.strip()
        return [text[start:end] for start, end in sentence_spans(text)]
    if match_type == "chunks" and len(text) >= CHUNK:
        return [text[start : start + CHUNK] for start in range(0, len(text) - OVERLAP, CHUNK - OVERLAP)]
    if match_type == "truncate_head_tail" and len(text) > CHUNK:
        return [f"{text[:ENDS]}...{text[-ENDS:]}"]
    return [text]
