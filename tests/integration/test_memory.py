"""What the server takes at most, as docs/reliability.md states it, under the heaviest load that is allowed."""

import re
import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import psutil
import pytest

from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import REPOSITORY, ROOT

MEBIBYTE = 1 << 20
LOOK_S = 0.05
TEXT = ("\N{GRINNING FACE} " + "a" * MEBIBYTE)[: MEBIBYTE - 3]
"""As long as a text may be, four bytes a character when it is decoded, and no work for the classifier."""


@pytest.fixture(scope="module")
def alone() -> Iterator[Server]:
    """A server with its cache, whose processes are all children of the launcher's."""
    with Server(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0, cores=2)) as server:
        yield server


def stated(name: str) -> int:
    """MiB that the documents allow."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"\| {name}[^|]*\| [^|]*\| ([\d,]+) \|", page)
    return int(found.replace(",", ""))


def taken(server: Server) -> int:
    """MiB of all its processes, what they share counted once, and of its shared memory."""
    guardian = psutil.Process(server.pids[0]).parent()
    assert guardian is not None
    total = 0
    for process in [guardian, *guardian.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total // MEBIBYTE


@pytest.mark.parametrize(
    ("texts", "callers"),
    [
        pytest.param(64, 8, id="one at a time with Triton"),
        pytest.param(3, 100, id="many with Triton"),
    ],
)
def test_the_largest_load_takes_no_more_than_is_stated(alone: Server, texts: int, callers: int) -> None:
    Wire(alone.grpc_address).infer(["a first text"])
    idle = taken(alone)
    stop = threading.Event()
    ended: Counter[grpc.StatusCode] = Counter()

    def call() -> None:
        wire, message = Wire(alone.grpc_address), request([TEXT] * texts)
        while not stop.is_set():
            error = wire.send(message).exception()
            ended[grpc.StatusCode.OK if error is None else error.code()] += 1

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    most = 0
    while ended[grpc.StatusCode.OK] * texts < 6 * 64:
        most = max(most, taken(alone))
        stop.wait(LOOK_S)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(ended) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert idle <= stated("after the start") or texts != 64
    assert most <= stated("the heaviest load")
    assert most > idle + 256 or texts != 64, "they did fill it"
