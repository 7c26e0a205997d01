"""Which label each text of an answer got, and how long answers took."""

import struct
from collections import Counter

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rejection_server.guard.answers import BOUNDS_S, Durations, count_labels
from rejection_server.guard.framing import framed

LABELS = {"rejection": ("NORMAL", "REJECTION")}


def answer(name: str, datatype: str, shape: list[int], raw: bytes, model: str = "rejection") -> bytes:
    response = service_pb2.ModelInferResponse(model_name=model)
    response.outputs.add(name="token_count", datatype="INT32", shape=[shape[0], 1])
    response.raw_output_contents.append(bytes(4 * shape[0]))
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
    return framed(response.SerializeToString())


def counted(body: bytes, model: str = "rejection") -> dict[str, int]:
    counts: Counter[tuple[str, str]] = Counter()
    count_labels(body, model, LABELS, counts)
    return {label: count for (_, label), count in counts.items()}


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def test_numbers() -> None:
    raw = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32).tobytes()
    assert counted(answer("probabilities", "FP32", [3, 2], raw)) == {"NORMAL": 1, "REJECTION": 2}


def test_labels_by_the_classification_extension() -> None:
    raw = strings(b"0.8:1:REJECTION", b"0.2:0:NORMAL", b"0.9:0:NORMAL", b"0.1:1:REJECTION")
    assert counted(answer("probabilities", "BYTES", [2, 2], raw)) == {"REJECTION": 1, "NORMAL": 1}
    assert counted(answer("probabilities", "BYTES", [1, 1], strings(b"0.8:1:REJECTION"))) == {"REJECTION": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        framed(b"\xff"),
        answer("logits", "FP32", [1, 2], bytes(8)),
        answer("probabilities", "BYTES", [1, 1], b"\x09\0\0"),
        answer("probabilities", "BYTES", [1, 1], strings(b"no score")),
        answer("probabilities", "BYTES", [1, 1], strings(b"0.8:7:WHAT")),
        answer("probabilities", "BYTES", [1, 0], b""),
        answer("probabilities", "FP32", [1, 2], bytes(7)),
        b"\x01" + answer("probabilities", "FP32", [1, 2], bytes(8))[1:],
    ],
)
def test_what_has_no_label_is_not_counted(body: bytes) -> None:
    assert counted(body) == {}


def test_other_models_are_not_counted() -> None:
    assert counted(answer("probabilities", "FP32", [1, 2], bytes(8)), "another") == {}


def test_durations_are_in_the_bucket_of_the_next_bound() -> None:
    durations = Durations()
    for seconds in (0.0, BOUNDS_S[0], 0.0011, 0.5, 31.0):
        durations.add(seconds)
    assert [index for index, count in enumerate(durations.counts) for _ in range(count)] == [0, 0, 1, 8, len(BOUNDS_S)]
    assert durations.sum_s == pytest.approx(31.5021)
