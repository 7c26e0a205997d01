"""Both clients against the served model, over real gRPC."""

import asyncio
import doctest
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from integration.client_servers import Blocking, MakeClient
from rejection_client import (
    AsyncRejectionClient,
    ClientConfig,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    RejectionClient,
    ServerUnavailableError,
)
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire
from support.repository import REPOSITORY, ROOT

REFUSAL = "Sorry, but I can't assist with that."
ANSWER = "The capital of France is Paris, a city of two million people on the river Seine."
MAX_BATCH_SIZE = 64
MAX_LENGTH = 512
TOO_LONG = "x" * (1024 * 1024 + 1)
PATIENT = ClientConfig(timeout_s=30)


@pytest.fixture(params=[RejectionClient, Blocking], ids=["threads", "asyncio"], scope="module")
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    made: MakeClient = request.param
    return made


@pytest.fixture(scope="module")
def client(server: Server, make_client: MakeClient) -> Iterator[RejectionClient]:
    with make_client(server.grpc_address, PATIENT) as client:
        yield client


def test_one_text_gives_one_prediction(client: RejectionClient) -> None:
    prediction = client.classify(REFUSAL)
    assert prediction.label == "REJECTION"
    assert list(prediction.scores) == ["NORMAL", "REJECTION"]
    assert prediction.score == prediction.scores["REJECTION"] > 0.5
    assert prediction.is_rejection()
    assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.token_count > len(REFUSAL.split())
    assert prediction.truncated is False


def test_several_texts_give_predictions_in_order(client: RejectionClient) -> None:
    predictions = client.classify_many([ANSWER, REFUSAL, ANSWER])
    assert [prediction.label for prediction in predictions] == ["NORMAL", "REJECTION", "NORMAL"]
    assert predictions[0] == predictions[2]
    assert client.classify_many([]) == []


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[Server]:
    """A server that no other test has requests under way at."""
    with Server(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=None, cache_bytes=0)) as server:
        yield server


@pytest.mark.parametrize(("texts", "requests"), [(8, 1), (9, 2), (32, 4), (40, 4), (300, 5)])
def test_many_texts_are_divided_among_the_instances(
    quiet_server: Server, make_client: MakeClient, texts: int, requests: int
) -> None:
    wire: Any = Wire(quiet_server.grpc_address)

    def answered() -> int:
        return int(wire.settled_statistics("rejection").inference_stats.success.count)

    with make_client(quiet_server.grpc_address, PATIENT) as client:
        client.model_info()  # what that asks is not counted below
        before = answered()
        predictions = client.classify_many([f"{ANSWER} {texts} {place}" for place in range(texts)])
    assert len(predictions) == texts
    assert answered() - before == requests


def test_more_texts_than_a_batch_holds(client: RejectionClient) -> None:
    texts = [f"{n} is a number." for n in range(7 * MAX_BATCH_SIZE + 3)]
    predictions = client.classify_many(tuple(texts))
    assert len(predictions) == len(texts)
    for index in (0, MAX_BATCH_SIZE - 1, MAX_BATCH_SIZE, 5 * MAX_BATCH_SIZE + 7, len(texts) - 1):
        assert predictions[index] == client.classify(texts[index])


@pytest.mark.parametrize("text", ["", " \n\t ", "\0", "🤷🏽‍♀️ désolé", "\x1b[31mno\x07"])
def test_any_unicode_text_is_classified(client: RejectionClient, text: str) -> None:
    assert client.classify(text).token_count >= 2


def test_max_length_truncates_what_is_scored_not_what_is_counted(client: RejectionClient) -> None:
    text = f"{REFUSAL} {ANSWER}"
    whole, cut = client.classify(text), client.classify(text, max_length=4)
    assert whole.token_count == cut.token_count
    assert whole.score != cut.score
    assert (whole.truncated, cut.truncated) == (False, True)


def test_a_max_length_beyond_the_models_is_the_models(client: RejectionClient) -> None:
    long = client.classify(f"{REFUSAL} " * 100, max_length=10_000)
    assert long.token_count > MAX_LENGTH
    assert long.truncated
    assert long.scores == client.classify(f"{REFUSAL} " * 100).scores


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_max_length_below_one(client: RejectionClient, max_length: int | None) -> None:
    with pytest.raises(InvalidInputError, match="max_length"):
        client.classify(REFUSAL, max_length=max_length)


def test_the_row_counts_across_requests(client: RejectionClient) -> None:
    texts = ["short"] * (MAX_BATCH_SIZE + 10)
    texts[MAX_BATCH_SIZE + 5] = TOO_LONG
    with pytest.raises(InvalidInputError, match=f"row {MAX_BATCH_SIZE + 5}\\b") as caught:
        client.classify_many(texts)
    assert caught.value.row == MAX_BATCH_SIZE + 5


def test_a_lone_surrogate_never_leaves(client: RejectionClient) -> None:
    with pytest.raises(InvalidInputError, match="lone surrogate") as caught:
        client.classify_many(["fine", "half a \ud83e"])
    assert caught.value.row == 1


def test_one_text_and_many_are_not_mixed_up(client: RejectionClient) -> None:
    with pytest.raises(TypeError, match="classify_many"):
        client.classify([REFUSAL])  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match="classify takes one"):
        client.classify_many(REFUSAL)
    with pytest.raises(TypeError, match="classify takes one"):
        next(client.stream(REFUSAL))
    with pytest.raises(TypeError, match="row 1 is of type bytes"):
        client.classify_many(["a", b"b"])  # type: ignore[list-item]  # the mistake


def test_what_the_server_tells_of_its_model(client: RejectionClient) -> None:
    info = client.model_info()
    assert info.name == "rejection"
    assert info.versions == ("1",)
    assert info.labels == ("NORMAL", "REJECTION")
    assert (info.max_batch_size, info.max_length) == (MAX_BATCH_SIZE, MAX_LENGTH)
    assert info.server.startswith("triton 2.")
    assert (info.positive_label, info.function_to_apply) == ("REJECTION", "softmax")
    assert (info.problem_type, info.precision, info.model_version) == ("single_label_classification", "int8", "1")
    assert info.model_id
    assert len(info.model_sha256 or "") == 64


def test_a_model_that_is_not_there(server: Server, make_client: MakeClient) -> None:
    with make_client(server.grpc_address, ClientConfig(model="nope")) as client:
        with pytest.raises(ModelNotFoundError, match="nope"):
            client.classify(REFUSAL)
        assert not client.is_ready()
        with pytest.raises(ServerUnavailableError, match=r"'nope' within 0\.3 s"):
            client.wait_until_ready(0.3)


def test_ready(client: RejectionClient) -> None:
    assert client.is_ready()
    client.wait_until_ready(5)


# --- streams -----------------------------------------------------------------------------------------------------


def test_a_stream_gives_results_in_order(client: RejectionClient) -> None:
    texts = [f"{n} is a number." for n in range(3 * MAX_BATCH_SIZE + 3)]
    results = list(client.stream(text for text in texts))
    assert [(result.index, result.text) for result in results] == list(enumerate(texts))
    assert [result.unwrap() for result in results] == client.classify_many(texts)
    assert list(client.stream([])) == []


def test_a_text_that_fails_in_a_stream_leaves_the_rest(client: RejectionClient) -> None:
    texts = [f"{n} is a number." for n in range(2 * MAX_BATCH_SIZE)]
    texts[70], texts[71], texts[100] = TOO_LONG, "half a \ud83e", TOO_LONG
    results = list(client.stream(texts))
    assert [result.index for result in results] == list(range(len(texts)))
    assert [result.index for result in results if result.prediction is None] == [70, 71, 100]
    for index in (70, 71, 100):
        error = results[index].error
        assert isinstance(error, InvalidInputError)
        assert error.row == index
        assert f"row {index}" in str(results[index].error)
        with pytest.raises(InvalidInputError):
            results[index].unwrap()


def test_a_stream_reads_no_further_ahead_than_it_must(server: Server, make_client: MakeClient) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "short"

    config = ClientConfig(timeout_s=30, max_concurrent_requests=2, max_texts_per_request=4)
    with make_client(server.grpc_address, config) as client:
        stream = client.stream(endless())
        assert read == 0
        for _ in range(100):
            next(stream)
        time.sleep(0.3)
        assert read <= 100 + 4 * (2 + 2) + 2
        stream.close()
        before = read
        time.sleep(0.2)
        assert read <= before + 1


def test_a_stream_holds_no_result_back_for_the_next_text(server: Server) -> None:
    """The one thing that differs between the clients: where the texts are read."""
    more = threading.Event()

    def slow() -> Iterator[str]:
        yield REFUSAL
        assert more.wait(30)
        yield ANSWER

    with RejectionClient(server.grpc_address, PATIENT) as client:
        stream = client.stream(slow())
        assert next(stream).unwrap().label == "REJECTION"
        more.set()
        assert [result.index for result in stream] == [1]


def test_a_stream_of_an_asynchronous_iterable(server: Server) -> None:
    async def run() -> list[str]:
        more = asyncio.Event()

        async def slow() -> AsyncIterator[str]:
            yield REFUSAL
            await more.wait()
            yield ANSWER

        labels = []
        async with AsyncRejectionClient(server.grpc_address, PATIENT) as client:
            async for result in client.stream(slow()):
                labels.append(result.unwrap().label)
                more.set()
        return labels

    assert asyncio.run(asyncio.wait_for(run(), 30)) == ["REJECTION", "NORMAL"]


def test_what_the_iterable_raises_comes_after_the_results_before(client: RejectionClient) -> None:
    def broken() -> Iterator[str]:
        yield from ["one", "two"]
        raise OSError("disk on fire")

    stream = client.stream(broken())
    assert [next(stream).index, next(stream).index] == [0, 1]
    with pytest.raises(OSError, match="disk on fire"):
        next(stream)


# --- long texts --------------------------------------------------------------------------------------------------


def test_a_refusal_in_a_long_text_is_found(client: RejectionClient) -> None:
    text = f"{ANSWER} " * 50 + REFUSAL + f" {ANSWER}" * 50
    answer = client.classify_document(text, "sentences", all_units=True)
    assert text[answer.highest.start : answer.highest.end] == REFUSAL
    assert answer.unit_count == len(answer.units) == 101
    assert answer.score == max(unit.prediction.score for unit in answer.units)
    assert answer.is_rejection()
    assert client.classify_document(text, "sentences").units == ()


@pytest.mark.parametrize("max_length", [None, 32])
def test_windows_are_read_whole_and_cover_the_text(client: RejectionClient, max_length: int | None) -> None:
    text = f"{ANSWER} " * 60
    answer = client.classify_document(text, all_units=True, max_length=max_length)
    assert all(unit.prediction.token_count <= (max_length or MAX_LENGTH) for unit in answer.units)
    assert not any(unit.prediction.truncated for unit in answer.units)
    assert (answer.units[0].start, answer.units[-1].end) == (0, len(text))
    for before, after in zip(answer.units, answer.units[1:], strict=False):
        assert after.start < before.end
    alone = text[answer.highest.start : answer.highest.end]
    assert answer.highest.prediction == client.classify(alone, max_length=max_length)


def test_a_text_that_fits_is_classified_once(client: RejectionClient) -> None:
    answer = client.classify_document(REFUSAL)
    assert (answer.highest.start, answer.highest.end, answer.unit_count) == (0, len(REFUSAL), 1)
    assert answer.highest.prediction == client.classify(REFUSAL)
    assert client.classify_document("").unit_count == 1


# --- manners -----------------------------------------------------------------------------------------------------


def test_a_deadline_too_short(client: RejectionClient) -> None:
    with pytest.raises(DeadlineExceededError, match=r"0\.0001 s"):
        client.classify_many([ANSWER * 20] * MAX_BATCH_SIZE, timeout_s=0.0001)
    assert client.classify(REFUSAL).label == "REJECTION"


def test_threads_share_a_client(server: Server) -> None:
    texts = [REFUSAL, ANSWER] * 20
    with RejectionClient(server.grpc_address, PATIENT) as client, ThreadPoolExecutor(8) as pool:
        labels = [prediction.label for prediction in pool.map(client.classify, texts)]
        many = list(pool.map(client.classify_many, [texts * 2] * 4))
    assert labels == ["REJECTION", "NORMAL"] * 20
    assert {tuple(prediction.label for prediction in predictions) for predictions in many} == {tuple(labels * 2)}


def test_a_closed_client_says_so(server: Server, make_client: MakeClient) -> None:
    client = make_client(server.grpc_address)
    with client:
        client.classify(REFUSAL)
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.classify(REFUSAL)
        with pytest.raises(RuntimeError, match="closed"):
            client.classify_many([REFUSAL] * 200)
        with pytest.raises(RuntimeError, match="closed"):
            list(client.stream([REFUSAL]))


def test_the_readme_is_true(server: Server) -> None:
    readme = (ROOT / "client" / "README.md").read_text()
    sessions = [part.split("```")[0] for part in readme.split("```pycon\n")[1:]]
    session = "".join(sessions).replace("127.0.0.1:8001", server.grpc_address)
    examples = doctest.DocTestParser().get_doctest(session, {}, "README.md", None, None)
    assert len(examples.examples) > 10
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert result.failed == 0
