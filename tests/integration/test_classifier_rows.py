"""Direct calls of `classifier`: a request whose rows are no text fails alone, whoever shares its batch."""

from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from integration.onnx_backend_server import running_server
from rejection_server.host import Server
from support.kserve import Wire, arrays
from support.ragged_graphs import session
from support.repository import REPOSITORY

VOCABULARY, LONGEST = 30522, 512
GOOD = [np.random.default_rng(length).integers(5, VOCABULARY, length) for length in (1, 7, 7, 30, 90)]
BAD: list[tuple[list[list[int]], str]] = [
    ([[]], "input_ids in row 0 hold no token; give each row at least one id from 0 to 30521"),
    ([[3, 4], [-1, -1]], "input_ids in row 1 hold no token"),
    ([[7, VOCABULARY]], "input_ids in row 0 hold 30522; ids are 0 to 30521, and -1 to fill up"),
    ([[7, 8], [2**63 - 1, 7]], "input_ids in row 1 hold 9223372036854775807;"),
    ([[-1, 5, -2]], "input_ids in row 0 hold -2;"),
    ([[5] * (LONGEST + 1)], "input_ids in row 0 hold 513 tokens; at most 512 fit, so truncate it"),
]


def call(
    ids: Sequence[Sequence[int]] | Sequence[NDArray[np.int64]] | NDArray[np.int64],
) -> service_pb2.ModelInferRequest:
    array = np.array(ids, np.int64)
    message = service_pb2.ModelInferRequest(model_name="classifier")
    message.inputs.add(name="input_ids", datatype="INT64", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    return message


@pytest.fixture(scope="module")
def wire(server: Server) -> Wire:
    """A channel to Triton itself: the guard lets nobody call a part of the model."""
    return Wire(server.triton_address)


@pytest.fixture(scope="module")
def alone() -> list[NDArray[np.float32]]:
    """What onnxruntime makes of each of GOOD, without any server."""
    runner = session(onnx.load(REPOSITORY / "classifier" / "1" / "model.onnx"))
    feeds = [{"input_ids": row, "sequence_lengths": np.array([[len(row)]], np.int32)} for row in GOOD]
    return [runner.run(["logits"], feed)[0] for feed in feeds]


def good_beside(wire: Wire, bad: service_pb2.ModelInferRequest) -> tuple[list[NDArray[np.float32]], grpc.Future]:
    """The logits of all of GOOD, and the call of `bad`, which was sent in their midst and in front.

    Long rows keep both instances busy meanwhile, so that the rest waits for one batch.
    """
    busy = [wire.send(call(np.full((2, LONGEST), 7))) for _ in range(2)]
    failing = wire.send(bad)
    pending = [wire.send(call([row])) for row in GOOD]
    for one in busy:
        one.result()
    return [arrays(one.result())["logits"] for one in pending], failing


@pytest.mark.parametrize(("rows", "says"), BAD, ids=range(len(BAD)))
def test_is_refused_alone(wire: Wire, alone: list[NDArray[np.float32]], rows: list[list[int]], says: str) -> None:
    got, bad = good_beside(wire, call(rows))
    np.testing.assert_array_equal(got, alone)
    assert bad.exception().code() == grpc.StatusCode.INVALID_ARGUMENT
    assert says in bad.exception().details()


@pytest.mark.parametrize("filler", [0, 3, 600])
def test_filler_is_no_token(wire: Wire, alone: list[NDArray[np.float32]], filler: int) -> None:
    for row, expected in zip(GOOD, alone, strict=True):
        filled = np.insert(row, np.random.default_rng(filler).integers(0, len(row) + 1, filler), -1)
        np.testing.assert_array_equal(arrays(wire.stub.ModelInfer(call([filled]), timeout=30))["logits"], expected)


def test_the_graph_is_safe_where_the_backend_cannot_refuse(tmp_path: Path, alone: list[NDArray[np.float32]]) -> None:
    """As with Triton's C++ backend, which knows no metadata of a graph: without it the stand-in refuses nothing."""
    model = onnx.load(REPOSITORY / "classifier" / "1" / "model.onnx")
    del model.metadata_props[:]
    config = (REPOSITORY / "classifier" / "config.pbtxt").read_text().replace('backend: "onnxruntime"', "")
    config = config.replace('label_filename: "labels.txt"', "").partition("model_warmup")[0]
    with running_server(tmp_path) as triton:
        triton.load("classifier", model, config)
        wire = Wire(triton.address)
        zero: NDArray[np.float32] = arrays(wire.stub.ModelInfer(call([[0]]), timeout=30))["logits"]
        for rows, _ in BAD:
            got, bad = good_beside(wire, call(rows))
            np.testing.assert_array_equal(got, alone)
            last = arrays(bad.result())["logits"][-1:]
            is_empty = all(id_ == -1 for id_ in rows[-1])
            np.testing.assert_array_equal(last, zero if is_empty else np.full((1, 2), np.nan))
