"""The graphs that a GPU is measured with, of one padded float32 classifier: each form in each precision.

    python -m bench.gpu_graphs padded.onnx build/gpu-graphs --heads 12 --pad-id 1

The encoder is read once; a file takes seconds.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto

from rejection_server.graph.packed_read import read_encoder
from rejection_server.graph.ragged import labels_of, logits_of, to_ragged
from rejection_server.graph.varlen import cpu_twin, varlen_of
from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.prepare.build import Precision, embedding_rows, in_precision

VARLEN = {"varlen-fp16": True, "varlen-fp32": False}
PADDED: dict[str, Precision] = {"padded-fp16": "fp16", "padded-fp32": "fp32"}
NAMES = (*VARLEN, *PADDED)
"""The first is what is served."""


def graphs(
    padded: ModelProto, heads: int, pad_id: int, names: tuple[str, ...] = NAMES, *, twins: bool = False
) -> Iterator[tuple[str, ModelProto]]:
    """The graphs of those names, one after the other: each is as large as the weights.

    With `twins` those of the varlen form are what a processor runs. Raises GraphError where the model is not one that
    the varlen form takes.
    """
    labels = labels_of(logits_of(padded.graph))
    if set(VARLEN) & set(names):
        encoder = read_encoder(padded, heads)
    accepted = TokenIds(embedding_rows(padded) or pad_id + 1, 512)
    for name in names:
        if name in VARLEN:
            model = varlen_of(encoder, heads, labels, "softmax", float16=VARLEN[name])
            yield name, cpu_twin(model) if twins else model
        else:
            model = ModelProto()
            model.CopyFrom(padded)
            yield name, to_ragged(in_precision(model, PADDED[name]), form="padded", accepted=accepted, pad_id=pad_id)


def write_graphs(made: Iterator[tuple[str, ModelProto]], folder: Path) -> Iterator[tuple[str, Path]]:
    """Write them to `folder`, each when it is made; yields the files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in made:
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        yield name, path


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="padded float32 ONNX classifier")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", type=int, required=True, help="attention heads")
    parser.add_argument("--pad-id", type=int, default=0)
    parser.add_argument("--twins", action="store_true", help="for a processor")
    parser.add_argument("--only", action="append", choices=NAMES, help="just these; may be given more than once")
    given = parser.parse_args()
    begin = time.monotonic()
    made = graphs(onnx.load(given.model), given.heads, given.pad_id, tuple(given.only or NAMES), twins=given.twins)
    for name, path in write_graphs(made, given.folder):
        size, passed = path.stat().st_size / 1e6, time.monotonic() - begin
        sys.stdout.write(f"{name}: {size:.1f} MB after {passed:.1f} s\n")


if __name__ == "__main__":
    main()
