"""LLM Guard's own `scan_output` with the scanner, against a real server; and both scanners side by side on scores."""

import enum
from collections.abc import Iterator

import pytest

from integration.client_servers import make_repository, start_servers, stop_servers
from rejection_client import RejectionClient
from rejection_client.llm_guard import NoRefusal, risk_score

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


def test_an_enumeration_of_the_match_types_is_taken(client: RejectionClient) -> None:
    class MatchType(enum.Enum):
        SENTENCE = "sentence"

    scanner = NoRefusal(client, match_type=MatchType.SENTENCE)  # type: ignore[arg-type]  # LLM Guard's own callers
    assert scanner.scan("", "Fine. Sorry.")[1] is False


def test_within_llm_guard(client: RejectionClient) -> None:
    guard = pytest.importorskip("llm_guard", reason=REASON)
    scanner = NoRefusal(client)
    text, valid, risk = guard.scan_output([scanner], "How?", "Sorry, I can't help with that.")
    assert (text, valid, risk) == ("Sorry, I can't help with that.", {"NoRefusal": False}, {"NoRefusal": 0.6})
    assert guard.scan_output([scanner], "How?", "Like this.")[1:] == ({"NoRefusal": True}, {"NoRefusal": -0.9})
    assert guard.scan_output([scanner], "How?", "  ")[1:] == ({}, {})


def test_the_risk_is_llm_guards() -> None:
    util = pytest.importorskip("llm_guard.util", reason=REASON)
    for threshold in (0.01, 0.25, 0.5, 0.75, 0.9, 0.99):
        for percent in range(101):
            score = percent / 100
            assert risk_score(score, threshold) == util.calculate_risk_score(score, threshold), (score, threshold)
