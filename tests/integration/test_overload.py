"""More requests than may be under way: the excess is refused at once, and nothing else is lost."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from rejection_server.guard.admission import STANDING_S
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import REPOSITORY

LIMIT = 16
LONG = "The committee met again and took no decision. " * 60


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in which few requests may be under way."""
    repository = tmp_path_factory.mktemp("small") / "repository"
    shutil.copytree(REPOSITORY, repository)
    config = repository / "tokenizer" / "config.pbtxt"
    text, changed = re.subn(
        r'("max_pending_requests"\s+value: \{ string_value: )"512"', rf'\1"{LIMIT}"', config.read_text()
    )
    assert changed == 1
    config.write_text(text)
    with Server(ServeOptions(repository=repository, grpc_port=0, cache_bytes=0, cores=2)) as server:
        yield server


@pytest.mark.parametrize("repeats", [1, 10], ids=["long", "30 KB"])
def test_the_excess_is_refused_and_all_else_is_answered(small: Server, repeats: int) -> None:
    wire = Wire(small.grpc_address)
    flood = [wire.send(request([f"{number} {LONG * repeats}"])) for number in range(300)]
    outcomes: Counter[Any] = Counter()
    for call in flood:
        try:
            call.result()
            outcomes["answered"] += 1
        except grpc.RpcError as error:
            outcomes[error.code(), error.details().rsplit(", ", 1)[-1]] += 1
    refused = sum(
        # Half of it in an overload that has lasted for a second.
        outcomes.pop(
            (
                grpc.StatusCode.UNAVAILABLE,
                f"the queue is full: at most {bound} requests may be under way; send this one again after a while",
            ),
            0,
        )
        for bound in (LIMIT, LIMIT // 2)
    )
    assert refused > 0
    assert outcomes.pop("answered") == 300 - refused >= LIMIT
    assert not outcomes
    # All is well again a second later, when no overload is thought to last.
    time.sleep(STANDING_S)
    answers = [wire.send(request([f"again {number}"])) for number in range(LIMIT)]
    assert all(call.result().outputs for call in answers)
