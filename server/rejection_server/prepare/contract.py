"""The tensors of the public model, in one table of which the configurations of all four models are made.

A new output is a line here and code in the model that makes it: the ensembles pass it on by themselves.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["INPUTS", "OUTPUTS", "Tensor", "declared", "mapped"]

WIDTH = 120


@dataclass(frozen=True)
class Tensor:
    """One input or output, of shape [rows, `dims`]."""

    name: str
    data_type: str
    """As `config.pbtxt` names it."""
    dims: str = "1"
    about: str = ""
    """A comment for readers of the public configuration."""
    is_optional: bool = False
    made_by: str = ""
    """Of an output: the model that makes it."""
    has_labels: bool = False
    """Whether its columns have names, for Triton's classification extension."""


INPUTS = (
    Tensor("text", "TYPE_STRING", about="UTF-8, at most 1 MiB a text."),
    Tensor(
        "max_length",
        "TYPE_INT32",
        about="Truncate to this many tokens, special tokens included. An input tensor, not a request parameter: the "
        "response cache tells requests apart by their inputs alone.",
        is_optional=True,
    ),
)
OUTPUTS = (
    Tensor("probabilities", "TYPE_FP32", "$labels", made_by="classifier", has_labels=True),
    Tensor("logits", "TYPE_FP32", "$labels", made_by="classifier", has_labels=True),
    Tensor(
        "token_count",
        "TYPE_INT32",
        about="Tokens of the text before truncation, special tokens included.",
        made_by="tokenizer",
    ),
)


def declared(tensors: Iterable[Tensor], *, about: bool = False, labels: bool = False) -> str:
    """Entries of an `input` or `output` list, with comments and the file of label names where asked for."""
    return ",\n".join("\n".join(_declaration(tensor, about=about, labels=labels)) for tensor in tensors)


def _declaration(tensor: Tensor, *, about: bool, labels: bool) -> list[str]:
    comment = textwrap.wrap(tensor.about, WIDTH, initial_indent="    # ", subsequent_indent="    # ")
    lines = comment if about else []
    lines += [f'    name: "{tensor.name}"', f"    data_type: {tensor.data_type}", f"    dims: [ {tensor.dims} ]"]
    lines += ["    optional: true"] if tensor.is_optional else []
    lines += ['    label_filename: "labels.txt"'] if labels and tensor.has_labels else []
    return ["  {", *lines, "  }"]


def mapped(kind: Literal["input", "output"], tensors: Iterable[Tensor]) -> str:
    """Lines of an ensemble's step that hand tensors through under their own names."""
    return "\n".join(f'      {kind}_map {{ key: "{tensor.name}" value: "{tensor.name}" }}' for tensor in tensors)
