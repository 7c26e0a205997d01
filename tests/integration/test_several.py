"""Several classifiers in one server: each answers as it does alone, with its own labels, limits and bounds."""

import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from load.metrics import fetch
from rejection_client import AccessDeniedError, ClientConfig, RejectionClient
from rejection_client.cli import main as client_command
from rejection_server.console import Console
from rejection_server.host import HostError, ServeOptions, Server
from rejection_server.json_console import JsonConsole
from support.kserve import Wire, arrays, request
from support.repository import RESPONSES
from support.several import ALL, TONE, TOPIC, make_alone, make_several

TEXTS = [json.loads(line)["text"] for line in RESPONSES.read_text(encoding="utf-8").splitlines()][:40]
ROOM = 4
"""Requests to `tone` that may be under way."""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, in which `tone` takes few requests."""
    repository = make_several(tmp_path_factory.mktemp("several"))
    config = repository / "tone_tokenizer" / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "512"', f'string_value: "{ROOM}"'))
    return repository


@pytest.fixture(scope="module")
def several(guard: Path) -> Iterator[Server]:
    options = ServeOptions(repository=guard, grpc_port=0, metrics_port=0, cores=4, weights={"tone": 2})
    with Server(options) as server:
        yield server


@pytest.fixture(scope="module")
def beside(several: Server) -> Wire:
    return Wire(several.grpc_address)


@pytest.fixture(scope="module")
def alone(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Wire]]:
    """Each classifier in a server of its own, without a cache."""
    folder = tmp_path_factory.mktemp("alone")
    made = [
        ServeOptions(repository=make_alone(name, folder / name), grpc_port=0, metrics_port=None, cache_bytes=0)
        for name in ALL[1:]
    ]
    servers = [Server(options) for options in made]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Server.start, servers))
        addresses = [server.grpc_address, *(each.grpc_address for each in servers)]
        yield {name: Wire(address) for name, address in zip(ALL, addresses, strict=True)}
    finally:
        for each in servers:
            each.kill()
            each.wait()


def infer(wire: Wire, model: str, texts: list[str], max_length: int | None = None) -> dict[str, Any]:
    return arrays(wire.stub.ModelInfer(request(texts, max_length, model), timeout=60))


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_answers_are_those_of_each_alone_whatever_runs_beside(beside: Wire, alone: dict[str, Wire]) -> None:
    choose = random.Random(1)
    asked = [(model, choose.sample(TEXTS, rows)) for model in ALL for rows in (1, 1, 1, 3, 8) for _ in range(4)]
    choose.shuffle(asked)
    expected = [infer(alone[model], model, texts) for model, texts in asked]
    with ThreadPoolExecutor(ROOM) as pool:  # no more than `tone` has room for
        found = list(pool.map(lambda each: infer(beside, *each), asked))
    assert [equal(one, other) for one, other in zip(found, expected, strict=True)] == [True] * len(asked)


def test_the_same_text_is_remembered_for_each_classifier_apart(beside: Wire) -> None:
    twice = [{model: infer(beside, model, ["Twice the same text."]) for model in ALL} for _ in range(2)]
    assert all(equal(twice[0][model], twice[1][model]) for model in ALL)
    assert [twice[1][model]["logits"].shape[1] for model in ALL] == [2, len(TONE), len(TOPIC)]


def test_each_has_its_own_limits(beside: Wire) -> None:
    for model, longest in zip(ALL, (512, 32, 128), strict=True):
        config = beside.stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
        assert config.parameters["model_max_length"].string_value == str(longest)
        whole, cut, longer = (infer(beside, model, ["word " * 600], limit) for limit in (None, longest, longest - 1))
        assert whole["token_count"] == 602
        assert equal(whole, cut)
        assert not equal(cut, longer), "more than the model reads would be the same again"


def test_each_has_its_own_labels_and_meaning(several: Server, beside: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(beside, "tone", ["Hello."])["probabilities"].sum() == pytest.approx(1, abs=1e-6)
    assert infer(beside, "topic", ["Hello."])["probabilities"].sum() != pytest.approx(1, abs=1e-2)
    for model, labels in (("tone", TONE), ("topic", TOPIC)):
        url = ["--url", several.grpc_address]
        assert client_command(["classify", *url, "--model", model, "--output", "jsonl", "Hello."]) == 0
        assert set(json.loads(capsys.readouterr().out)["scores"]) == set(labels)


@pytest.mark.parametrize(("model", "owner"), [("classifier", "rejection"), ("tone_scoring", "tone")])
def test_parts_are_closed(beside: Wire, model: str, owner: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(beside, model, ["Hello."])
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert f"model '{model}' is a part of '{owner}' and" in caught.value.details()


def test_a_caller_need_not_know_which_there_are(several: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with RejectionClient(several.grpc_address, ClientConfig(timeout_s=60)) as client:
        assert client.models() == list(ALL)
        one, many = client.classify_all("Hello."), client.classify_all(TEXTS[:3])
        assert list(one) == list(many) == list(ALL)
        assert {name: result.unwrap() for name, result in one.items()} == {
            name: result.unwrap() for name, result in client.classify_all("Hello.", ALL).items()
        }
        assert [[result.text for result in many[name]] for name in ALL] == [TEXTS[:3]] * 3
        assert [list(results) for results in client.stream_all(iter(TEXTS[:3]))] == [list(ALL)] * 3
        with pytest.raises(AccessDeniedError) as caught:
            client.classify_all("Hello.", ["tone_tokenizer"])["tone_tokenizer"].unwrap()
        assert str(caught.value).endswith(
            "'tone_tokenizer' is a part of 'tone' and is not called from outside: call 'tone'"
        )
    url = ["--url", several.grpc_address, "--output", "jsonl"]
    assert client_command(["classify", *url, "--all-models", "Hello."]) == 0
    assert list(json.loads(capsys.readouterr().out)["models"]) == list(ALL)
    assert client_command(["info", *url]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(model["name"], len(model["labels"])) for model in told] == [("rejection", 2), ("tone", 3), ("topic", 5)]
    assert client_command(["info", *url, "--model", "tone"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tone"


def test_a_flood_of_one_takes_no_room_from_another(beside: Wire, alone: dict[str, Wire]) -> None:
    flood = [beside.stub.ModelInfer.future(request(TEXTS, None, "tone"), timeout=60) for _ in range(200)]
    expected = infer(alone["rejection"], "rejection", TEXTS[:1])
    for _ in range(5):
        assert equal(infer(beside, "rejection", TEXTS[:1]), expected)
    codes = {call.code(): call.details() for call in flood}
    assert codes.keys() == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes[grpc.StatusCode.UNAVAILABLE].startswith(f"the queue of 'tone' is full: at most {ROOM} requests") or (
        codes[grpc.StatusCode.UNAVAILABLE].startswith(f"the queue of 'tone' is full: at most {ROOM // 2} requests")
    )


def test_the_cores_are_shared_out(several: Server, beside: Wire) -> None:
    assert several.shares == {"rejection": 1, "tone": 2, "topic": 1}
    counts = {}
    for model in ("classifier", "tone_classifier", "topic_classifier", "tone_tokenizer"):
        config = beside.stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
        counts[model] = sum(group.count for group in config.instance_group)
    assert counts == {"classifier": 1, "tone_classifier": 2, "topic_classifier": 1, "tone_tokenizer": 1}


def test_the_banner_names_each(several: Server, capfd: pytest.CaptureFixture[str]) -> None:
    Console("warning").ready(several, several.options, 1.0)
    lines = capfd.readouterr().out.splitlines()
    assert [
        " ".join(line.split()) for line in lines if "model" in line or "classifier" in line or "layout" in line
    ] == [
        "models rejection rejection-minilm-l6, int8; NORMAL, REJECTION; 1 classifier, 1 tokenizer",
        "tone tiny-tone, fp32; calm, loud, rude; 2 classifier, 1 tokenizer",
        "topic tiny-topic, fp16; food, law, music, sport, ...; 1 classifier, 1 tokenizer",
        "layout 4 cores shared out: rejection 1, tone 2, topic 1",
    ]
    JsonConsole("warning").ready(several, several.options, 1.0)
    event = json.loads(capfd.readouterr().err)
    assert event["models"]["topic"] == {"model": "tiny-topic", "precision": "fp16", "labels": list(TOPIC)}
    assert event["cores"] == {"rejection": 1, "tone": 2, "topic": 1}


def test_metrics_tell_them_apart(several: Server, beside: Wire) -> None:
    assert several.metrics_address is not None
    for model in ALL:
        infer(beside, model, ["One more text."])
    found = fetch(several.metrics_address)
    for metric in ("rejection_request_duration_seconds_count", "rejection_guard_requests_under_way"):
        assert set(found[metric]) == set(ALL)
    assert all(found["rejection_request_duration_seconds_count"][model] > 0 for model in ALL)
    assert set(found["rejection_guard_verdicts"]) == {"rejection", "tone"}, "topic gives no text one label"


def test_a_broken_one_keeps_the_server_from_starting(guard: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(guard, tmp_path / "guard"))
    (broken / "tone_classifier" / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(HostError, match=r"'tone_classifier'") as caught:
        Server(ServeOptions(repository=broken, grpc_port=0, metrics_port=None, cores=3)).start()
    assert "\n" not in str(caught.value)
