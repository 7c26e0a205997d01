"""What a model's configuration and tokenizer say: labels, what the answers mean, lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rejection_server.graph.rows import Activation
from rejection_server.prepare.edges import FILLING, edge_texts
from rejection_server.prepare.errors import CorruptedError, UnsupportedError, VocabularyError
from rejection_server.prepare.labels import PROBLEM_TYPES, SINGLE_LABEL, activation_of, labels_of, positive_label_of
from rejection_server.prepare.source import CONFIG, read_json
from rejection_server.prepare.tokenizer import load_tokenizer, segment_of
from rejection_server.wording import one_line

SERVED_AT_MOST = 2048
"""Tokens; models that can take more need `--max-length`, because attention's memory grows with the square."""

_ABSURD_LENGTH = 10**6  # what tokenizers without a length of their own say
_CLASSIFIER = "ForSequenceClassification"
TOKENIZER_CONFIG = "tokenizer_config.json"
_OWN_CLASSES = ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer")
"""What a text classification takes from `auto_map`; entries for other tasks change nothing."""


@dataclass(frozen=True)
class Description:
    """What is served, apart from the graph."""

    architecture: str
    """Class of the model, like RobertaForSequenceClassification."""
    labels: tuple[str, ...]
    activation: Activation
    problem_type: str
    """What the model was trained for, as `config.json` says or transformers takes it to be."""
    positive_label: str | None
    """The label that the model is there to find; None if it has none of that kind."""
    model_max_length: int
    """Longest text in tokens, special ones included."""
    longest_possible: int
    """What configuration and tokenizer would allow."""
    pad_id: int
    largest_id: int
    """Largest token id that the tokenizer can give."""
    segment: int
    """Of all tokens of a text: their `token_type_ids`."""
    heads: int
    hidden_size: int
    edge_texts: tuple[str, ...]
    """Texts at which the tokenizer's settings show."""
    sample_rows: tuple[tuple[int, ...], ...] = ()
    """Token ids of texts of 16, 128 and `model_max_length` tokens, or of as many as fit; shortest first."""

    def of_length(self, longest: int, sample_rows: tuple[tuple[int, ...], ...]) -> Description:
        """The same model with texts of at most `longest` tokens, which turned out to be all that it takes."""
        possible = self.longest_possible if longest == self.model_max_length else longest
        return replace(self, model_max_length=longest, longest_possible=possible, sample_rows=sample_rows)


def describe(folder: Path, max_length: int | None, positive_label: str | None) -> Description:
    """Read configuration and tokenizer in `folder`; `model_max_length` is what they allow, not yet tried.

    Raises UnsupportedError or CorruptedError.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    raw = read_json(folder / CONFIG)
    architecture = _architecture(raw)
    check_custom_code(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as exc:  # whatever a setting of a wrong kind leads to
        raise UnsupportedError(
            f"the model's configuration is not one that transformers knows: {one_line(exc)}"
        ) from exc
    labels = labels_of(config.id2label)
    activation = activation_of(len(labels), config.problem_type)
    tokenizer = load_tokenizer(folder)
    possible = longest_text(vars(config), tokenizer.model_max_length)
    tried = min(possible, max_length or SERVED_AT_MOST)
    backend = tokenizer.backend_tokenizer
    special = [*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.added_tokens_decoder.values())]
    return Description(
        architecture=architecture,
        labels=labels,
        activation=activation,
        problem_type=config.problem_type if config.problem_type in PROBLEM_TYPES else SINGLE_LABEL,
        positive_label=positive_label_of(labels, positive_label),
        model_max_length=tried,
        longest_possible=possible,
        pad_id=config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id or 0,
        largest_id=max(backend.get_vocab(with_added_tokens=True).values()),
        segment=segment_of(tokenizer),
        heads=int(getattr(config, "num_attention_heads", 0) or 0),
        hidden_size=int(getattr(config, "hidden_size", 0) or 0),
        edge_texts=tuple(edge_texts(special, len(tokenizer(FILLING)["input_ids"]), tried)),
    )


def check_custom_code(folder: Path) -> None:
    """Raise UnsupportedError if the model's author wants code of theirs run to build the classifier or its tokenizer.

    Without that code transformers builds, silently, the model of its own that has the same name in `model_type`.
    """
    for name, entry, code in _custom_code(folder):
        raise UnsupportedError(
            f"the model needs custom code, {code} ({entry} in {name}): Python that comes with the model and would run "
            "with your rights, so it is not run here, and without it the answers would be another model's; where you "
            "trust it, export the model to ONNX and prepare a folder with onnx/model.onnx, no weights and no such entry"
        )


def _custom_code(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """File, entry in it and code that the classifier or the tokenizer would be built with."""
    for name, classes in ((CONFIG, _OWN_CLASSES), (TOKENIZER_CONFIG, ("AutoTokenizer",))):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        found = content.get("auto_map") if isinstance(content, dict) else None
        if not isinstance(found, dict | list | str | None):
            raise CorruptedError(f"auto_map in {name} is {found}, which names no class: download the model again")
        named = found if isinstance(found, dict) else {"AutoTokenizer": found}  # a list is the older form
        for entry in classes:
            if code := named.get(entry):
                names = code if isinstance(code, list) else [code]
                yield name, f"auto_map: {entry}", ", ".join(map(str, filter(None, names)))
        pipelines = content.get("custom_pipelines") if isinstance(content, dict) else None
        if isinstance(pipelines, dict) and "text-classification" in pipelines:
            own = pipelines["text-classification"]
            yield name, "custom_pipelines", own.get("impl") if isinstance(own, dict) else own


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    if not names:
        raise UnsupportedError(f"{CONFIG} does not say what the model is (architectures): a text classifier is needed")
    if not (isinstance(names, list) and isinstance(names[0], str)):
        raise CorruptedError(f"architectures in {CONFIG} is {names}, no list of names: download the model again")
    if not names[0].endswith(_CLASSIFIER):
        raise UnsupportedError(
            f"the model is not a text classifier: its architecture is {names[0]}, not *{_CLASSIFIER}"
        )
    return str(names[0])


def longest_text(config: Mapping[str, Any], tokenizer_length: int | None) -> int:
    """Tokens that configuration and tokenizer allow, special ones included.

    The model itself may take fewer, where positions are counted from the padding id on: the reference finds that out.
    Raises CorruptedError for what is no number.
    """
    limits = [config.get("max_position_embeddings"), tokenizer_length]
    names = (f"max_position_embeddings in {CONFIG}", "the tokenizer's model_max_length")
    for name, limit in zip(names, limits, strict=True):
        if not isinstance(limit, int | float | None):
            raise CorruptedError(f"{name} must be a number of tokens, not {limit!r}: mend it")
    sane = [int(limit) for limit in limits if limit is not None and 0 < limit < _ABSURD_LENGTH]
    return min(sane, default=SERVED_AT_MOST)


def check_vocabulary(largest_id: int, embedding_rows: int) -> None:
    """Raise VocabularyError if the tokenizer gives ids that the model has no embedding for."""
    if largest_id >= embedding_rows:
        raise VocabularyError(
            f"tokenizer and model do not belong together: the tokenizer gives ids up to {largest_id}, the model has "
            f"embeddings for 0 to {embedding_rows - 1}"
        )
