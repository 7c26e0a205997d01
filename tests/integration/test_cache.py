"""Repeated texts: answered from the response cache, with the same scores, for any outputs and options."""

import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import REPOSITORY

OUTPUTS = ("probabilities", "logits", "token_count")


@pytest.fixture(scope="module")
def cached() -> Iterator[Server]:
    """A server of its own, so that the counts are those of this module."""
    with Server(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0)) as server:
        yield server


@pytest.fixture
def client(cached: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(cached.grpc_address) as client:
        yield client


def ask(
    client: triton.InferenceServerClient,
    texts: Sequence[str],
    outputs: Sequence[str] = OUTPUTS,
    max_length: int | None = None,
    class_count: int = 0,
) -> dict[str, Any]:
    text = triton.InferInput("text", [len(texts), 1], "BYTES")
    text.set_data_from_numpy(np.array([[t.encode()] for t in texts], dtype=object))
    inputs = [text]
    if max_length is not None:
        inputs.append(triton.InferInput("max_length", [len(texts), 1], "INT32"))
        inputs[1].set_data_from_numpy(np.full((len(texts), 1), max_length, np.int32))
    wanted = [triton.InferRequestedOutput(name, class_count=class_count) for name in outputs]
    answer = client.infer("rejection", inputs, outputs=wanted)
    return {output.name: answer.as_numpy(output.name).tolist() for output in answer.get_response().outputs}


def counts(server: Server, client: triton.InferenceServerClient) -> tuple[int, int, int]:
    """The classifier's executions, and the hits and misses of the cache, so far.

    Once they stand still: Triton books an execution just after it has answered.
    """
    readings: list[tuple[int, int, int]] = []
    while len(readings) < 3 or not readings[-3] == readings[-2] == readings[-1]:
        time.sleep(0.1)
        readings.append(counts_now(server, client))
    return readings[-1]


def counts_now(server: Server, client: triton.InferenceServerClient) -> tuple[int, int, int]:
    stats = client.get_inference_statistics("classifier").model_stats[0]
    assert server.metrics_address is not None
    text = urllib.request.urlopen(server.metrics_address, timeout=10).read().decode()
    metric = {
        kind: int(line.split()[-1])
        for line in text.splitlines()
        for kind in ("hits", "misses")
        if line.startswith(f'nv_cache_num_{kind}_per_model{{model="scoring"')
    }
    return stats.execution_count, metric["hits"], metric["misses"]


def test_repeat_is_a_hit_and_runs_nothing(cached: Server, client: triton.InferenceServerClient) -> None:
    texts = ["The cache has not seen this one.", "Nor has it seen this one, which is longer."]
    first = ask(client, texts)
    before = counts(cached, client)
    assert [ask(client, texts) for _ in range(20)] == [first] * 20
    after = counts(cached, client)
    assert after == (before[0], before[1] + 20, before[2])


@pytest.mark.parametrize("earlier", OUTPUTS)
def test_each_caller_gets_the_outputs_it_asks_for(client: triton.InferenceServerClient, earlier: str) -> None:
    text = f"First asked for {earlier} alone."
    assert set(ask(client, [text], (earlier,))) == {earlier}
    whole = ask(client, [text])
    assert set(whole) == set(OUTPUTS)
    for outputs in (("logits",), ("probabilities",), ("token_count", "logits"), ("token_count",)):
        assert ask(client, [text], outputs) == {name: whole[name] for name in outputs}
    (labels,) = ask(client, [text], ("probabilities",), class_count=1)["probabilities"]
    assert labels[0].split(b":")[2] in (b"NORMAL", b"REJECTION")


def test_options_are_part_of_the_key(client: triton.InferenceServerClient) -> None:
    text = "A text of more than four tokens, asked for with several lengths."
    answers = [ask(client, [text], max_length=length) for length in (None, 4, 5, 4, None, 512)]
    assert answers[1] == answers[3] != answers[2]
    assert answers[0] == answers[4] == answers[5] != answers[1]


def test_a_request_is_remembered_as_a_whole(cached: Server, client: triton.InferenceServerClient) -> None:
    one, other = "A text that shares a request.", "Another one, which shares it."

    def is_hit(texts: Sequence[str]) -> bool:
        before = counts(cached, client)
        ask(client, texts)
        after = counts(cached, client)
        assert (after[1] - before[1]) + (after[2] - before[2]) == 1
        return after[1] > before[1]

    orders = ([one, other], [other, one], [one], [one, one])
    assert [is_hit(texts) for texts in orders] == [False] * 4
    assert [is_hit(texts) for texts in orders] == [True] * 4


def test_errors_are_not_remembered(client: triton.InferenceServerClient) -> None:
    for _ in range(2):
        with pytest.raises(triton.InferenceServerException, match="max_length in row 0 is 0"):
            ask(client, ["Refused for its option."], max_length=0)
    assert set(ask(client, ["Refused for its option."])) == set(OUTPUTS)


@pytest.mark.parametrize("model", ["rejection", "scoring", "tokenizer"])
@pytest.mark.parametrize("value", ["", "abc", "x" * 128], ids=len)
def test_a_string_for_a_sequence_is_refused_and_the_server_lives(cached: Server, model: str, value: str) -> None:
    """Triton 2.51, left alone, ends with a segmentation fault when `rejection` is asked so."""
    wire = Wire(cached.triton_address)
    message = request([f"Asked of {model} with a sequence id of {len(value)}."], model=model)
    message.parameters["sequence_id"].string_param = value
    says = "the parameter sequence_id is a string, but this model keeps no sequences; leave it out"
    code, details = wire.error(message)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.endswith(says)
    (streamed,) = wire.stub.ModelStreamInfer(iter([message]), timeout=30)
    assert streamed.error_message.endswith(says)
    del message.parameters["sequence_id"]
    first = wire.stub.ModelInfer(message, timeout=30)
    # What is remembered costs no tokenizer that could refuse; it is answered, then.
    message.parameters["sequence_id"].string_param = value
    if model == "tokenizer":
        assert wire.error(message)[0] == grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert wire.stub.ModelInfer(message, timeout=30).raw_output_contents == first.raw_output_contents
        (streamed,) = wire.stub.ModelStreamInfer(iter([message]), timeout=30)
        assert streamed.infer_response.raw_output_contents == first.raw_output_contents


def test_a_number_for_a_sequence_changes_nothing(cached: Server) -> None:
    wire = Wire(cached.triton_address)
    message = request(["Asked as the fifth of its kind."])
    message.parameters["sequence_id"].int64_param = 5
    first = wire.stub.ModelInfer(message, timeout=30)
    assert wire.stub.ModelInfer(message, timeout=30).raw_output_contents == first.raw_output_contents


def test_memory_is_bounded() -> None:
    options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0, cache_bytes=2**16)
    with Server(options) as server, triton.InferenceServerClient(server.grpc_address) as client:
        first = ask(client, ["text number 0"])
        # An answer of 64 rows is 1,280 bytes of figures: together more than the 64 KiB that there are. They are of two
        # tokens, so that they cost little.
        for number in range(60):
            ask(client, [f"{number} {row}" for row in range(64)], max_length=2)
        executions, hits, _ = counts(server, client)
        assert ask(client, ["text number 0"]) == first
        assert counts(server, client)[:2] == (executions + 1, hits), "the oldest entry should have made room"
        assert ask(client, ["text number 0"]) == first
        assert counts(server, client)[:2] == (executions + 1, hits + 1)


def test_cache_that_is_off_finds_nothing(server: Server) -> None:
    assert server.options.cache_size == 0
    with triton.InferenceServerClient(server.grpc_address) as client:
        before = counts(server, client)
        answers = [ask(client, ["Asked twice."]) for _ in range(2)]
        assert answers[0] == answers[1]
        assert counts(server, client) == (before[0] + 2, 0, 0)
