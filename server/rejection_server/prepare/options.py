"""What is to be prepared, and how: the options of the command, and what follows from them alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rejection_server.names import DEFAULT, Names
from rejection_server.prepare import gate
from rejection_server.prepare.build import Precision
from rejection_server.prepare.configuration import Device, Engine
from rejection_server.prepare.errors import PrepareError

SAMPLE = Path(__file__).parent / "texts.jsonl"
FEWEST_TEXTS = 200


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be prepared, and how."""

    model: str
    """Id on the Hugging Face hub, or a folder in its format."""
    output: Path
    """Where the repository goes, or with `adds` the one that is there."""
    name: str = DEFAULT
    """What callers call the classifier."""
    adds: bool = False
    """Whether the classifier joins others in the repository `output`."""
    revision: str | None = None
    """Commit, branch or tag on the hub."""
    precision: Precision | Literal["auto"] = "auto"
    """auto: int8 for a CPU, fp16 for a GPU; where either is not near enough, fp32."""
    device: Device = "cpu"
    engine: Engine = "onnxruntime"
    """What is to run the graph on a GPU."""
    texts: Path | None = None
    """Texts to compare on, one a line or JSON lines with `text`; None takes the bundled sample."""
    max_length: int | None = None
    """Longest text in tokens; None takes the model's, at most 2048."""
    version: int | None = None
    """Add the model as this version to the repository that is there."""
    positive_label: str | None = None
    """The label that callers look for; None takes REJECTION, if the model has it."""
    allow_pickle: bool = False
    agreement: float | None = None
    """In place of the precision's own threshold; so are the next two."""
    largest: float | None = None
    mean: float | None = None

    @property
    def names(self) -> Names:
        """The classifier's models."""
        return Names(self.name)

    @property
    def adds_version(self) -> bool:
        """Whether a version is added to a classifier that is there already."""
        return self.version is not None and not self.adds and (self.output / self.names.classifier).is_dir()

    @property
    def precisions(self) -> Sequence[Precision]:
        """The precisions that are tried, one after the other."""
        chosen = self.precision
        if chosen == "auto":
            chosen = "int8" if self.device == "cpu" else "fp16"
        gives_way = chosen == "int8" or (chosen == "fp16" and self.device == "gpu")
        return (chosen, "fp32") if gives_way else (chosen,)

    def thresholds(self, precision: Precision) -> gate.Thresholds:
        """The precision's thresholds, with what the options say in place."""
        given = {name: getattr(self, name) for name in ("agreement", "largest", "mean")}
        chosen = {name: value for name, value in given.items() if value is not None}
        return replace(gate.THRESHOLDS[precision], **chosen)


def read_texts(path: Path) -> list[str]:
    """Texts of a file: JSON lines with `text`, or plain lines. Raises PrepareError if they are too few."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise PrepareError(
            f"the texts in {path} cannot be read ({exc}): give a file with one text a line, or JSON lines with a field "
            "text in a file named *.jsonl"
        ) from exc
    if len(texts) < FEWEST_TEXTS:
        raise PrepareError(f"{path} holds {len(texts)} texts; at least {FEWEST_TEXTS} are needed to tell models apart")
    return texts
