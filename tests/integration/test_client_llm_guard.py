"""The scanners for LLM Guard against real servers, and within LLM Guard's own `scan_prompt` and `scan_output`."""

from collections.abc import Iterator
from typing import Any

import pytest

from integration.client_servers import make_repository, start_servers, stop_servers
from rejection_client import ModelNotFoundError, RejectionClient, UnexpectedAnswerError
from rejection_client.llm_guard import input_scanners, output_scanners
from rejection_client.llm_guard.output_scanners import NoRefusal
from rejection_server.host import Server

REASON = "LLM Guard is not installed; it brings torch, so it is no dependency of the tests: pip install llm-guard"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RejectionClient]:
    servers = start_servers(make_repository(tmp_path_factory.mktemp("repository")))
    with RejectionClient(servers[0].grpc_address) as client:
        yield client
    stop_servers(servers)


def test_without_llm_guard(client: RejectionClient) -> None:
    scanner = NoRefusal(client, match_type="sentence")
    refusal = "It is late. Sorry, I can't help with that. Goodbye."
    assert scanner.scan("How?", refusal) == (refusal, False, 0.6)
    assert scanner.scan("How?", "It is late.") == ("It is late.", True, -0.9)


@pytest.mark.parametrize(
    ("scanner", "options", "bad", "good"),
    [
        (input_scanners.PromptInjection, {"model": "injection"}, ("0.01 0.99", 0.9), ("0.9 0.1", -0.9)),
        (input_scanners.Toxicity, {"model": "toxic"}, ("0 0 0.8 0", 0.6), ("0 0 0 0 0 0 0 0.99", -1.0)),
        (input_scanners.Gibberish, {"model": "gibberish"}, ("0 0 1 0", 1.0), ("0.9 0.1 0", -0.9)),
        (
            input_scanners.Language,
            {"model": "language", "valid_languages": ["en", "nl"]},
            ("0.8 0.2 0", 0.5),
            ("0 0.8 0", -1.0),
        ),
    ],
    ids=["injection", "toxic", "gibberish", "language"],
)
def test_prompts_are_scanned_by_models_with_the_published_labels(
    kinds: Server, scanner: Any, options: dict[str, Any], bad: tuple[str, float], good: tuple[str, float]
) -> None:
    with RejectionClient(kinds.grpc_address) as client:
        for (text, risk), is_valid in ((bad, False), (good, True)):
            assert scanner(client, **options).scan(text) == (text, is_valid, risk)


def test_outputs_are_scanned_by_models_with_the_published_labels(kinds: Server) -> None:
    with RejectionClient(kinds.grpc_address) as client:
        assert output_scanners.Bias(client, model="bias").scan("0.9 0.1", "x") == ("x", False, 0.7)
        assert output_scanners.Toxicity(client, model="toxic").scan("", "0.69 0")[1:] == (True, 0.0)
        assert output_scanners.Gibberish(client, model="gibberish").scan("", "0 0 0.8 0.2")[1:] == (False, 0.3)
        assert output_scanners.Language(client, ["nl"], model="language").scan("", "0.8 0")[1:] == (False, 0.3)
        with pytest.raises(UnexpectedAnswerError, match="made by softmax"):
            output_scanners.Toxicity(client, model="five").scan("", "x")
        with pytest.raises(UnexpectedAnswerError, match="SAFE, INJECTION, and the scanner goes by BIASED"):
            output_scanners.Bias(client, model="injection").scan("", "x")
        with pytest.raises(ModelNotFoundError):
            output_scanners.Bias(client, model="nobody").scan("", "x")


def test_all_within_llm_guard(kinds: Server) -> None:
    guard = pytest.importorskip("llm_guard", reason=REASON)
    # Models take the numbers in a text for the scores of their labels, so each scanner sees another kind of text.
    text = "0.02 0.98 0"
    with RejectionClient(kinds.grpc_address) as client:
        prompts = [
            input_scanners.Gibberish(client, model="gibberish"),
            input_scanners.PromptInjection(client, model="injection"),
            input_scanners.Toxicity(client, model="toxic"),
            input_scanners.Language(client, ["nl"], model="language"),
        ]
        assert guard.scan_prompt(prompts, text) == (
            text,
            {"Gibberish": False, "PromptInjection": False, "Toxicity": False, "Language": True},
            {"Gibberish": 0.3, "PromptInjection": 0.7, "Toxicity": 1.0, "Language": -1.0},
        )
        assert guard.scan_prompt(prompts, text, fail_fast=True)[1] == {"Gibberish": False}
        outputs = [
            output_scanners.NoRefusal(client, model="reversed"),
            output_scanners.Bias(client, model="bias"),
            output_scanners.Gibberish(client, model="gibberish"),
            output_scanners.Toxicity(client, model="toxic"),
            output_scanners.Language(client, ["ja"], model="language"),
        ]
        assert guard.scan_output(outputs, "0.9 0.1", text) == (
            text,
            {"NoRefusal": True, "Bias": False, "Gibberish": False, "Toxicity": False, "Language": False},
            {"NoRefusal": -1.0, "Bias": 0.7, "Gibberish": 0.9, "Toxicity": 0.9, "Language": 0.9},
        )


def test_within_llm_guard(client: RejectionClient) -> None:
    guard = pytest.importorskip("llm_guard", reason=REASON)
    scanner = NoRefusal(client)
    text, valid, risk = guard.scan_output([scanner], "How?", "Sorry, I can't help with that.")
    assert (text, valid, risk) == ("Sorry, I can't help with that.", {"NoRefusal": False}, {"NoRefusal": 0.6})
    assert guard.scan_output([scanner], "How?", "Like this.")[1:] == ({"NoRefusal": True}, {"NoRefusal": -0.9})
    assert guard.scan_output([scanner], "How?", "  ")[1:] == ({}, {})
