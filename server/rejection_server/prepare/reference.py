"""What a user of the original gets: transformers' own pipeline, raw text in, labels and scores out, in float32.

Nothing here is shared with what is served: the pipeline reads the folder, tokenises, runs the model and names the
scores by itself. Runs in a process of its own.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rejection_server.prepare.errors import UnsupportedError
from rejection_server.prepare.onnx_file import open_onnx
from rejection_server.wording import one_line

SHORTEST = 16
"""Tokens that every model is expected to take."""
FEW = 4
"""So many lengths are tried one after the other before the range is halved."""


@dataclass(frozen=True)
class Answer:
    """One text's."""

    ids: tuple[int, ...]
    """Token ids that the model was given."""
    token_count: int
    """Tokens of the whole text."""
    logits: tuple[float, ...]
    """What the model gave."""
    scores: dict[str, float]
    """What a user gets, by the label's name."""


@dataclass(frozen=True)
class Reference:
    """What the original answers to some texts."""

    longest: int
    """Tokens of the longest text that it takes, special ones included."""
    cuts_by_itself: bool
    """Whether its tokenizer cuts longer texts to this without being told the length."""
    answers: tuple[Answer | str, ...]
    """Of each text; where it has none, why."""


Ask = Callable[[str, int | None], Answer]
"""From a text, and the length that it is cut to or None for the tokenizer's own, to the answer."""


def has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    return importlib.util.find_spec("torch") is not None


def answers_of_pipeline(folder: Path, texts: Sequence[str], longest: int) -> Reference:
    """What `transformers.pipeline("text-classification", top_k=None, truncation=True)` answers, text by text.

    `longest` is the most tokens that a text may have. Raises UnsupportedError if the pipeline cannot be made or answers
    nothing.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = transformers.pipeline(
            "text-classification",
            model=str(folder),
            tokenizer=str(folder),
            device="cpu",
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except Exception as exc:  # it raises whatever loading stumbles over
        raise UnsupportedError(f"transformers cannot make a pipeline of the model: {one_line(exc)}") from exc
    seen: dict[str, Any] = {}

    def watch(_model: Any, _args: Any, given: dict[str, Any], output: Any) -> None:
        seen.update(ids=given["input_ids"][0].tolist(), logits=output.logits[0].tolist())

    pipe.model.register_forward_hook(watch, with_kwargs=True)

    def ask(text: str, length: int | None) -> Answer:
        cut = {} if length is None else {"max_length": length}
        found = pipe(text, top_k=None, truncation=True, **cut)
        scores = {str(one["label"]): one["score"] for one in found}
        count = len(pipe.tokenizer(text)["input_ids"])
        return Answer(tuple(seen["ids"]), count, tuple(seen["logits"]), scores)

    return _answers(ask, texts, longest, pipe.tokenizer.model_max_length)


def answers_of_onnx(folder: Path, onnx: Path, texts: Sequence[str], longest: int) -> Reference:
    """What the model's own ONNX file at `onnx` answers to what transformers' tokenizer makes of the texts.

    For where there is no PyTorch, or no weights beside the file. `longest` is the most tokens that a text may have.
    Raises UnsupportedError or CorruptedError.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    session = open_onnx(onnx)
    inputs = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    output = "logits" if "logits" in outputs else outputs[0]
    labels = [config.id2label[index] for index in range(config.num_labels)]

    def ask(text: str, length: int | None) -> Answer:
        cut = {} if length is None else {"max_length": length}
        encoded = {name: np.asarray([ids], np.int64) for name, ids in tokenizer(text, truncation=True, **cut).items()}
        ids = encoded["input_ids"]
        given = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids), **encoded}
        (logits,) = session.run([output], {name: value for name, value in given.items() if name in inputs})
        if logits.shape != (1, len(labels)):
            raise UnsupportedError(
                f"{onnx.name} is not a text classifier with {len(labels)} labels: its output '{output}' has the shape "
                f"{list(logits.shape)}"
            )
        raw = logits[0].astype(np.float64)
        count = len(tokenizer(text)["input_ids"])
        return Answer(tuple(ids[0].tolist()), count, tuple(raw.tolist()), _scores(config, labels, raw))

    return _answers(ask, texts, longest, tokenizer.model_max_length)


def _scores(config: Any, labels: Sequence[str], logits: Any) -> dict[str, float]:
    """As the pipeline makes them of the logits."""
    if config.problem_type == "regression":
        scores = logits
    elif config.problem_type == "multi_label_classification" or len(labels) == 1:
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return dict(zip(labels, scores.tolist(), strict=True))


def _answers(ask: Ask, texts: Sequence[str], longest: int, tokenizer_length: int) -> Reference:
    """Ask for all texts, cut to the longest that works: models number positions in several ways."""
    longest = _longest_that_works(lambda length: ask("word " * length, length), longest)
    # A number with a point, which some tokenizers have, cuts nothing: `tokenizers` refuses it.
    length = None if tokenizer_length == longest and isinstance(tokenizer_length, int) else longest
    answers: list[Answer | str] = []
    for text in texts:
        try:
            answers.append(ask(text, length))
        except UnsupportedError:
            raise
        except Exception as exc:  # whatever the tokenizer or the model raises
            answers.append(one_line(exc, 120))
    if all(isinstance(answer, str) for answer in answers):
        raise UnsupportedError(f"transformers itself cannot answer with this model: {answers[0]}")
    return Reference(longest, length is None, tuple(answers))


def _longest_that_works(ask: Callable[[int], Answer], longest: int) -> int:
    """The most tokens up to `longest` that the model takes; raises UnsupportedError if it takes hardly any."""
    reason = _why_not(ask, min(longest, SHORTEST))
    if reason is not None:
        raise UnsupportedError(f"transformers itself cannot answer with this model: {reason}")
    works, fails, length = min(longest, SHORTEST), longest + 1, longest
    while works + 1 < fails:
        if _why_not(ask, length) is None:
            works = length
        else:
            fails = length
        # An offset of a few positions is the usual cause.
        length = fails - 1 if longest - fails < FEW else (works + fails) // 2
    return works


def _why_not(ask: Callable[[int], Answer], length: int) -> str | None:
    try:
        ask(length)
    except UnsupportedError:
        raise
    except Exception as exc:  # whatever the tokenizer or the model raises
        return one_line(exc, 200)
    return None
