"""The measurement of ways to several servers: what counts as lost, and what the table says of it."""

import asyncio

import grpc
import pytest

from bench.fleet.cli import main as fleet
from bench.fleet.clients import lost, under_load
from bench.fleet.clients_cli import main, text
from rejection_client import ServerUnavailableError


def test_each_call_counts_once_by_its_outcome() -> None:
    unavailable = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
    outcomes: list[Exception | None] = [None, unavailable, None, ServerUnavailableError("gone"), None]
    over = asyncio.Event()

    async def call(_: str) -> None:
        outcome = outcomes.pop(0)
        if not outcomes:
            over.set()
        await asyncio.sleep(0.01)
        if outcome is not None:
            raise outcome

    async def run() -> None:
        told = await under_load([call], ["a"], over.wait())
        assert told == {"answered": 3, "UNAVAILABLE": 1, "ServerUnavailableError": 1}
        assert lost(told) == 2

    asyncio.run(run())


def test_the_table_has_ratios_to_the_first_way() -> None:
    figures = {"killed": {"answered": 97, "UNAVAILABLE": 3}, "restarted": {"answered": 1200}}
    ways = [
        {"way": "one", "rate": 50.0, "p50_s": 0.1, "p99_s": 0.4, **figures},
        {"way": "two", "rate": 60.0, "p50_s": 0.05, "p99_s": 0.5, **figures},
    ]
    shown = text({"command": "c", "date": "d", "processor": "p", "cores": 2, "ways": ways})
    assert "| two | 1.20 | 0.50 | 1.25 | 3 of 100 | 0 of 1,200 |" in shown
    assert "50.0 texts a second" in shown


def test_a_number_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="numbers above 0"):
        main(["--clients", "0"])


def test_a_word_that_is_none_of_the_fleets_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fleet(["client", "--clients", "2"])
    assert ended.value.code == 2
    assert "there is no 'client': give options, or clients" in capsys.readouterr().err
