"""A scanner for LLM Guard that asks the server: https://llm-guard.com without its model in your process.

It takes the place of `llm_guard.output_scanners.NoRefusal`, and works without LLM Guard too:

    scanner = NoRefusal(RejectionClient("127.0.0.1:8001"))
    output, is_valid, risk_score = scanner.scan(prompt, output)
"""

import logging
from typing import Literal

from rejection_client._client import RejectionClient
from rejection_client._documents import sentence_spans

__all__ = ["NoRefusal"]

MAX_LENGTH = 128
"""Tokens of a text, or of a sentence, that are read: where LLM Guard truncates."""

MATCH_TYPES = ("full", "sentence")

_log = logging.getLogger(__name__)


class NoRefusal:
    """Finds refusals in a language model's output, with the rules of LLM Guard's scanner of this name.

    A text is a refusal if its score, rounded to two digits, is above `threshold` (a probability above 0, at most 1).
    `match_type` "full" scores the output as a whole, "sentence" each sentence, where the first above the threshold
    decides. Sentences are split as LLM Guard does, with NLTK's English Punkt model; nothing is downloaded.

    Raises ValueError for another `match_type` or threshold. `client` stays the caller's to close.
    """

    def __init__(
        self, client: RejectionClient, threshold: float = 0.75, match_type: Literal["full", "sentence"] = "full"
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; give a probability above 0, at most 1")
        # LLM Guard's own MatchType is an enumeration of the same values.
        kind = getattr(match_type, "value", match_type)
        if kind not in MATCH_TYPES:
            raise ValueError(f"match_type is '{kind}'; give one of {', '.join(MATCH_TYPES)}")
        self._client = client
        self._threshold = threshold
        self._by_sentence = kind == "sentence"

    def scan(self, prompt: str, output: str) -> tuple[str, bool, float]:  # noqa: ARG002  # LLM Guard's signature
        """Scan an output; the prompt is not looked at.

        Returns the output unchanged, whether it is free of refusals, and the risk: -1 to 1, above 0 for a refusal.
        Raises a `RejectionError`.
        """
        if not output.strip():
            return output, True, -1.0
        highest = 0.0
        for prediction in self._client.classify_many(self._texts(output), max_length=MAX_LENGTH):
            score = round(prediction.score, 2)
            highest = max(highest, score)
            if score > self._threshold:
                _log.info("refusal detected: score %.2f above %g", score, self._threshold)
                return output, False, risk_score(score, self._threshold)
        return output, True, risk_score(highest, self._threshold)

    def _texts(self, output: str) -> list[str]:
        if not self._by_sentence:
            return [output]
        text = output.strip()
        return [text[start:end] for start, end in sentence_spans(text)]


def risk_score(score: float, threshold: float) -> float:
    """How far the score is above the threshold (0 to 1) or below it (-1 to 0), as a share of how far it could be."""
    distance = score - threshold
    risk = round(distance / (1 - threshold if distance > 0 else threshold), 1)
    return min(max(risk, -1.0), 1.0)
