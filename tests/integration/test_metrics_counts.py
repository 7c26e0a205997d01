"""Requests of known number and kind against the real server, and what its metrics, read as documented, make of them."""

import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from load import metrics, sampling
from rejection_client._metrics import activity, parse, refusals
from rejection_server import MODEL_REPOSITORY
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import ROOT

BOUND = 4
SETTLED_S = 10.0
SUM = re.compile(r"sum\(rate\((?P<metric>\w+)\{(?P<filters>[^}]*)\}\[1m\]\)\)")
FILTER = re.compile(r'(\w+)(!?=~?)"([^"]*)"')
SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled model, whose queue takes few requests."""
    repository = tmp_path_factory.mktemp("counts") / "repository"
    shutil.copytree(MODEL_REPOSITORY, repository)
    config = repository / "tokenizer" / "config.pbtxt"
    bounded = re.sub(r'(max_pending_requests"\s*value: \{ string_value: )"\d+"', rf'\1"{BOUND}"', config.read_text())
    assert bounded != config.read_text()
    config.write_text(bounded)
    with Server(ServeOptions(repository=repository, grpc_port=0, metrics_port=0, cores=1)) as server:
        yield server


def scrape(server: Server) -> str:
    with urllib.request.urlopen(str(server.metrics_address), timeout=10) as response:
        text: str = response.read().decode()
    return text


def documented(number: int) -> str:
    """The number-th expression of docs/loadtest.md."""
    page = (ROOT / "docs" / "loadtest.md").read_text()
    return str(re.findall(r"```promql\n(.*?)```", page, re.DOTALL)[number])


def value(expression: str, text: str) -> float:
    """What the expression gives where every rate is a counter's value: sums of sums, some of them halved."""
    total = 0.0
    for term in expression.split("+"):
        (selected,) = SUM.finditer(term)
        rest = SUM.sub("", term).strip()
        assert rest in ("", "/ 2", "( or vector(0))"), rest
        filters = FILTER.findall(selected["filters"])
        found = sum(
            float(number)
            for metric, labels, number in SAMPLE.findall(text)
            if metric == selected["metric"] and all(_fits(labels, *condition) for condition in filters)
        )
        total += found / 2 if rest == "/ 2" else found
    return total


def _fits(labels: str, name: str, operator: str, wanted: str) -> bool:
    found = dict(re.findall(r'(\w+)="([^"]*)"', labels)).get(name, "")
    fits = re.fullmatch(wanted, found) is not None if operator.endswith("~") else found == wanted
    return fits is not operator.startswith("!")


def counted(server: Server, work: Callable[[], tuple[int, int]]) -> None:
    """Do the work, which says how many requests were answered and how many failed, and ask everyone who counts."""
    before = scrape(server)
    answered, failed = work()
    expected = [(answered, failed)] * 3
    deadline_s = time.monotonic() + SETTLED_S  # Triton counts a failure the second time just after its answer
    while (told := _told(before, scrape(server))) != expected:
        assert time.monotonic() < deadline_s, (told, expected)
        time.sleep(0.1)


def _told(before: str, after: str) -> list[tuple[float, float]]:
    """Answered and failed requests by the documented expressions, by the load report and by `rejection watch`."""
    failures, successes = documented(0), documented(1)
    sample = sampling.Work("rejection", ["tokenizer", "classifier"]).between(
        metrics.read(before), metrics.read(after), 1.0
    )
    (row,) = (row for row in activity(parse(before), parse(after), 1.0) if row.model == "rejection")
    refused = sum(refusals(parse(before), parse(after), 1.0).values())
    answered = value(successes, after) - value(successes, before)
    return [
        (answered, value(failures, after) - value(failures, before)),
        (answered, sample.failed_per_s or 0.0),
        (row.requests_per_s, row.failures_per_s + refused),
    ]


def test_good_and_invalid_requests_count_once(server: Server) -> None:
    wire = Wire(server.grpc_address)

    def work() -> tuple[int, int]:
        for number in range(5):
            wire.infer([f"a text {number}"])
        wire.infer(["a text 0"])  # from the cache
        bad: list[Any] = [request([b"\xff"]) for _ in range(3)]
        bad += [request(["a", b"\xfe"]), request(["a"], max_length=0), request(["b"], max_length=-1)]
        codes = {wire.error(message)[0] for message in bad}
        assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
        return 6, len(bad)

    counted(server, work)


def test_requests_refused_by_a_full_queue_count_once(server: Server) -> None:
    wire = Wire(server.grpc_address)

    def work() -> tuple[int, int]:
        ended = threading.Semaphore(0)
        calls = [wire.send(request([f"{number} " + "long " * 600])) for number in range(100)]
        for call in calls:
            call.add_done_callback(lambda _: ended.release())
        for _ in calls:
            assert ended.acquire(timeout=60)
        codes = [call.code() for call in calls]
        answered, refused = codes.count(grpc.StatusCode.OK), codes.count(grpc.StatusCode.UNAVAILABLE)
        assert answered + refused == len(calls)
        assert answered
        assert refused
        return answered, refused

    counted(server, work)
