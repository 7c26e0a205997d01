"""What answers mean, for models of every kind: the client and its command against a real server."""

import csv
import io
import json
import subprocess
import sys
from typing import Any

import pytest

from integration.client_servers import Blocking, MakeClient
from integration.meaning_models import LABELS, MEANING
from rejection_client import (
    AccessDeniedError,
    ClientConfig,
    InvalidInputError,
    ModelNotFoundError,
    NoPositiveLabelError,
    RejectionClient,
    UnexpectedAnswerError,
)
from rejection_client.llm_guard.output_scanners import NoRefusal
from rejection_server.host import Server
from support.kserve import Wire


@pytest.fixture(params=[RejectionClient, Blocking], ids=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    made: MakeClient = request.param
    return made


def config(model: str, **options: Any) -> ClientConfig:
    return ClientConfig(model=model, timeout_s=30, **options)


def run(kinds: Server, model: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    verb = () if arguments[:1] == ("document",) else ("classify",)
    command = [sys.executable, "-m", "rejection_client", *verb, *arguments, "--url", kinds.grpc_address]
    return subprocess.run([*command, "--model", model], input=given, capture_output=True, text=True, timeout=60)


def test_a_refusal_is_a_named_label_wherever_it_stands(kinds: Server, make_client: MakeClient) -> None:
    refusal, answer = "0.9 0.1", "0.2 0.8"
    with make_client(kinds.grpc_address, config("reversed")) as client:
        assert [found.is_rejection() for found in client.classify_many([refusal, answer])] == [True, False]
        assert client.classify(refusal).score == pytest.approx(0.9)
        document = client.classify_document(f"{answer}. {refusal}. {answer}.", "sentences", max_length=9)
        assert document.is_rejection()
        assert document.highest.start == 9
        assert document.score == pytest.approx(0.9)
        info = client.model_info()
        for name, value in MEANING["reversed"].items():
            assert getattr(info, name) == value
    with make_client(kinds.grpc_address, config("reversed", positive_label="NORMAL")) as client:
        assert [found.is_rejection() for found in client.classify_many([refusal, answer])] == [False, True]


def test_a_text_is_asked_of_several_models_at_once(kinds: Server, make_client: MakeClient) -> None:
    models = ["five", "reversed", "nobody", "topics"]
    with make_client(kinds.grpc_address, config("reversed", positive_label="NORMAL")) as client:
        results = client.classify_all("0.9 0.1", models)
        assert list(results) == models
        for model in ("five", "reversed", "topics"):
            with make_client(kinds.grpc_address, config(model)) as alone:
                single = alone.classify("0.9 0.1")
                assert results[model].unwrap().scores == single.scores
                if model != "reversed":  # the client's own, for which it was told another
                    assert results[model].prediction == single
        assert results["reversed"].unwrap().positive_label == "NORMAL"
        assert isinstance(results["nobody"].error, ModelNotFoundError)
        assert client.model_info("topics").is_multi_label


def test_texts_are_asked_of_several_models_and_each_fails_alone(kinds: Server, make_client: MakeClient) -> None:
    texts = ["0.1 0.9", "bad", *[f"0.{number % 10} 0.5" for number in range(40)], "0.1 0.9"]
    with make_client(kinds.grpc_address, config("reversed")) as client:
        results = client.classify_all(texts, ["five", "nobody", "reversed"])
        for model in ("five", "reversed"):
            assert [(result.index, result.text) for result in results[model]] == list(enumerate(texts))
            failed = [(result.index, result.error) for result in results[model] if result.error is not None]
            assert [index for index, _ in failed] == [1]
            assert isinstance(failed[0][1], InvalidInputError)
            assert failed[0][1].row == 1
        scores = [list(result.unwrap().scores.values()) for result in results["reversed"] if result.index != 1]
        asked = [[float(word) for word in text.split()] for text in texts if text != "bad"]
        assert scores == [pytest.approx(numbers) for numbers in asked]
        assert {type(result.error) for result in results["nobody"]} == {ModelNotFoundError}

        assert client.classify_all([], ["five"]) == {"five": []}
        streamed = list(client.stream_all(iter(texts), ["five", "nobody", "reversed"]))
        for model in ("five", "reversed"):
            assert [result[model].prediction for result in streamed] == [one.prediction for one in results[model]]
        assert {type(result["nobody"].error) for result in streamed} == {ModelNotFoundError}
        with pytest.raises(ModelNotFoundError):
            list(client.stream_all(texts, ["nobody"]))
        for wrong in ("five", list[str](), 5, ["five", None], b"five"):
            with pytest.raises(ValueError, match="one model or several"):
                client.classify_all("a", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="text row 1 is of type bytes"):
            client.classify_all(["a", b"a"], ["five"])  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", [None, 5, b"0.1 0.9"])
def test_what_is_no_text_is_told_at_the_call(kinds: Server, make_client: MakeClient, wrong: Any) -> None:
    kind = type(wrong).__name__
    with make_client(kinds.grpc_address, config("five")) as client:
        for call in (client.classify_many, lambda texts: client.classify_all(texts, ["five"])):
            with pytest.raises(TypeError, match=f"^texts is of type {kind}, not a sequence of str$"):
                call(wrong)
        for stream in (client.stream, lambda texts: client.stream_all(texts, ["five"])):
            with pytest.raises(TypeError, match=f"^texts is of type {kind}, not an iterable of str$"):
                list(stream(wrong))
        for one in (client.classify, client.classify_document):
            with pytest.raises(TypeError, match=f"^text is of type {kind}, not str"):
                one(wrong)
        for many in (client.classify_many, lambda text: list(client.stream(text))):
            with pytest.raises(TypeError, match=r"of type str, .*; classify takes one text"):
                many("0.1 0.9")


def test_triton_alone_has_its_models_named(kinds: Server, server: Server, make_client: MakeClient) -> None:
    with make_client(kinds.grpc_address, config("five")) as client:
        for ask in (client.models, lambda: client.classify_all("0.1"), lambda: list(client.stream_all(["0.1"]))):
            with pytest.raises(
                AccessDeniedError, match=r"which classifiers it has \(This protocol .*; name the models"
            ):
                ask()
    unlocked = config("rejection", metadata=server.admin_metadata)
    with (
        make_client(server.triton_address, unlocked) as client,
        pytest.raises(UnexpectedAnswerError, match=r"it lists '.*', a part of a classifier.*; name the models"),
    ):
        client.classify_all("Boil the water first.")
    done = run(kinds, "five", "--all-models", "0.1")
    assert (done.returncode, done.stdout) == (2, ""), "a model is named, too"


def test_llm_guards_scanner_goes_by_the_name(kinds: Server) -> None:
    with RejectionClient(kinds.grpc_address, config("reversed")) as client:
        assert NoRefusal(client).scan("", "0.9 0.1")[1] is False
        assert NoRefusal(client).scan("", "0.1 0.9")[1] is True
    with RejectionClient(kinds.grpc_address, config("five")) as client, pytest.raises(NoPositiveLabelError):
        NoRefusal(client).scan("", "0.9 0.1")


@pytest.mark.parametrize("model", ["five", "topics", "stars", "older"])
def test_a_model_without_such_a_label_has_no_verdict(kinds: Server, make_client: MakeClient, model: str) -> None:
    with make_client(kinds.grpc_address, config(model)) as client:
        found = client.classify("0.1 0.7 0.2")
        assert found.label == LABELS[model][1]
        assert list(found.scores) == LABELS[model]
        with pytest.raises(NoPositiveLabelError, match="positive_label"):
            found.is_rejection()
        with pytest.raises(NoPositiveLabelError, match="positive_label"):
            client.classify_document("0.1 0.7 0.2")
    with make_client(kinds.grpc_address, config(model, positive_label=LABELS[model][0])) as client:
        assert client.classify("0.1 0.7 0.2").score == pytest.approx(0.1)
    with (
        make_client(kinds.grpc_address, config(model, positive_label="nothing")) as client,
        pytest.raises(NoPositiveLabelError, match=f"has no label 'nothing', .* it has {LABELS[model][0]}"),
    ):
        client.classify("0.1 0.7 0.2")


def test_the_command_tells_by_the_name(kinds: Server) -> None:
    assert run(kinds, "reversed", "--exit-code", "0.9 0.1").returncode == 3
    assert run(kinds, "reversed", "--exit-code", "0.1 0.9").returncode == 0
    assert run(kinds, "reversed", "document", "--exit-code", given="0.9 0.1").returncode == 3
    assert run(kinds, "reversed", "0.9 0.1").stdout.splitlines()[0].split() == [
        "LABEL",
        "P(REJECTION)",
        "TOKENS",
        "TEXT",
    ]
    for arguments in (["--exit-code", "0.1"], ["document"]):
        done = run(kinds, "five", *arguments, given="0.1")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "name one of one, two, three, four, five as positive_label (--positive-label)" in done.stderr
    assert run(kinds, "five", "--exit-code", "--positive-label", "two", "0.1 0.9 0.0").returncode == 3


def test_the_command_shows_every_label(kinds: Server) -> None:
    given = '{"t": "0.1 0.2 0.4 0.2 0.1", "id": 1}\n'
    (found,) = csv.DictReader(io.StringIO(run(kinds, "five", "--jsonl", "t", "--output", "csv", given=given).stdout))
    assert [float(found[label]) for label in LABELS["five"]] == pytest.approx([0.1, 0.2, 0.4, 0.2, 0.1])
    assert found["label"] == "three"
    assert "score" not in found
    object_ = json.loads(run(kinds, "five", "--output", "jsonl", "0.1 0.2 0.4 0.2 0.1").stdout)
    assert list(object_["scores"]) == LABELS["five"]
    assert "P(five)" in run(kinds, "five", "0.1").stdout


def test_the_command_names_all_labels_of_a_multi_label_model_above_the_threshold(kinds: Server) -> None:
    text = "0.6 0.1 0.9 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.51"
    object_ = json.loads(run(kinds, "topics", "--output", "jsonl", text).stdout)
    assert object_["labels"] == ["topic 2", "topic 0", "topic 11"]
    object_ = json.loads(run(kinds, "topics", "--output", "jsonl", "--threshold", "0.8", text).stdout)
    assert (object_["labels"], object_["label"]) == (["topic 2"], "topic 2")
    (found,) = csv.DictReader(io.StringIO(run(kinds, "topics", "--output", "csv", text).stdout))
    assert found["labels"] == "topic 2, topic 0, topic 11"
    assert float(found["topic 11"]) == pytest.approx(0.51)
    table = run(kinds, "topics", text).stdout
    assert table.splitlines()[1].startswith("topic 2, topic 0, topic 11 ")
    assert all(f"P({label})" in table for label in LABELS["topics"])


def test_raw_scores_are_no_probabilities(kinds: Server) -> None:
    done = run(kinds, "stars", "-1.5 7 2", "--threshold", "5", "--positive-label", "middle", "--exit-code")
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].split()[1:4] == ["SCORE(low)", "SCORE(middle)", "SCORE(high)"]
    assert done.stdout.splitlines()[1].split()[:4] == ["middle", "-1.5000", "7.0000", "2.0000"]


def test_rows_that_the_server_fails_at_are_rows_with_an_error(kinds: Server) -> None:
    given = "".join(f"0.{number}\n" for number in range(1, 10)) + "fail\n0.5 0.4\n"
    done = run(kinds, "reversed", "--output", "jsonl", given=given)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [(row["line"], row["text"]) for row in found] == list(enumerate(given.splitlines(), 1))
    failed = [row["line"] for row in found if "error" in row]
    assert 10 in failed
    assert done.stderr.splitlines() == [f"rejection: {row['error']}" for row in found if "error" in row]
    assert f"line 10: the server at {kinds.grpc_address} failed: " in done.stderr


def rows_asked(kinds: Server, model: str) -> int:
    wire: Any = Wire(kinds.grpc_address)
    return int(wire.settled_statistics(model).inference_count)


def test_equal_texts_of_one_call_are_sent_once(kinds: Server, make_client: MakeClient) -> None:
    texts = [f"0.{number % 7} 0.{number % 5}" for number in range(300)]
    with make_client(kinds.grpc_address, config("reversed")) as client:
        client.model_info()
        before = rows_asked(kinds, "reversed")
        predictions = client.classify_many(texts)
        assert rows_asked(kinds, "reversed") == before + len(set(texts)) == before + 35
        assert [list(found.scores.values()) for found in predictions] == [
            pytest.approx([float(score) for score in text.split()], abs=1e-6) for text in texts
        ]
        streamed = list(client.stream(iter(texts)))
        assert rows_asked(kinds, "reversed") == before + 70
    assert [found.unwrap() for found in streamed] == predictions
    assert [(found.index, found.text) for found in streamed] == list(enumerate(texts))


def test_equal_texts_fail_each_at_its_place(kinds: Server, make_client: MakeClient) -> None:
    texts = ["0.1", "bad", "0.2", "bad", "0.1", "\ud83e", "\ud83e"] * 20
    with make_client(kinds.grpc_address, config("reversed")) as client:
        for found, text in zip(client.stream(texts), texts, strict=True):
            if text.startswith("0"):
                assert found.unwrap().scores["REJECTION"] == pytest.approx(float(text))
            else:
                assert isinstance(found.error, InvalidInputError)
                assert found.error.row == found.index
                assert f"row {found.index}" in str(found.error)
        with pytest.raises(InvalidInputError) as caught:
            client.classify_many(["0.1", "0.1", "bad", "bad"])
        assert caught.value.row == 2


def test_the_command_asks_several_models(kinds: Server) -> None:
    models = ("--model", "bias", "--model", "injection")
    done = run(kinds, "topics", *models, "--output", "jsonl", "0.9 0.1", "bad")
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert list(first["models"]) == ["bias", "injection", "topics"]
    assert [found["label"] for found in first["models"].values()] == ["BIASED", "SAFE", "topic 0"]
    assert "argument 2" in second["models"]["bias"]["error"] or "row 1" in second["models"]["bias"]["error"]
    assert done.stderr.count("argument 2") == 3
    assert "(of 'injection')" in done.stderr

    told = run(kinds, "topics", *models, "--output", "csv", given="0.1 0.9\n")
    (row,) = csv.DictReader(io.StringIO(told.stdout))
    assert (told.returncode, row["bias.NEUTRAL"], row["injection.label"]) == (0, "0.8999999761581421", "INJECTION")
    done = run(kinds, "reversed", "--model", "bias", "--exit-code", "0.9 0.1")
    assert done.returncode == 3
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["BIAS", "P", "REVERSED", "P", "TEXT"],
        ["BIASED", "0.9000", "REJECTION", "0.9000", "0.9", "0.1"],
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--positive-label", "BIASED"), 2, "--positive-label goes with one --model"),
        (("--output-file", "x.parquet"), 2, "Parquet goes with one --model: 2 are named"),
        (("--output-file", "x.csv", "--resume"), 2, "--resume goes with one --model: 2 are named"),
        (("--threshold", "2"), 2, "--threshold 2 is no probability"),
        (("--model", "nobody"), 1, "does not serve 'nobody'"),
    ],
)
def test_what_the_command_has_for_one_model_only(
    kinds: Server, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = run(kinds, "bias", "--model", "injection", *arguments, "0.9 0.1")
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
