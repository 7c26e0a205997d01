"""More requests than may wait: the excess is refused at once, nothing else is lost, and idle instances take work."""

import re
import shutil
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import REPOSITORY, tokenizing

LIMIT = 16
LONG = "The committee met again and took no decision. " * 60


@pytest.fixture(scope="module", params=["guard", "metrics", "metrics off"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in which few requests may wait."""
    repository = tmp_path_factory.mktemp("small") / "repository"
    shutil.copytree(REPOSITORY, repository)
    config = repository / "tokenizer" / "config.pbtxt"
    text, changed = re.subn(
        r'("max_pending_requests"\s+value: \{ string_value: )"512"', rf'\1"{LIMIT}"', config.read_text()
    )
    assert changed == 1
    config.write_text(text)
    options = ServeOptions(
        repository=repository,
        grpc_port=0,
        guard=request.param == "guard",
        metrics_port=0 if request.param == "metrics" else None,
        cache_bytes=0,
        cores=2,
    )
    with Server(options) as server:
        yield server


def test_the_excess_is_refused_and_all_else_is_answered(small: Server) -> None:
    wire = Wire(small.grpc_address)
    flood = [wire.send(request([f"{number} {LONG}"])) for number in range(300)]
    outcomes: Counter[Any] = Counter()
    for call in flood:
        try:
            call.result()
            outcomes["answered"] += 1
        except grpc.RpcError as error:
            outcomes[error.code(), error.details().rsplit(", ", 1)[-1]] += 1
    waiting = f"the queue is full: at most {LIMIT} requests wait"
    more = "; send this one again after a while" if small.options.guard else " for the classifier"
    refused = outcomes.pop((grpc.StatusCode.UNAVAILABLE, waiting + more))
    assert refused > 0
    # Those that wait, and at least one batch in the works at each instance.
    assert outcomes.pop("answered") == 300 - refused >= LIMIT
    assert not outcomes
    # All is well again at once.
    answers = [wire.send(request([f"again {number}"])) for number in range(LIMIT)]
    assert all(call.result().outputs for call in answers)


def test_metrics_that_are_off_are_for_the_models_alone(small: Server) -> None:
    if small.options.metrics_port is None:
        assert small.metrics_address is None
        return
    assert small.metrics_address is not None
    text = urllib.request.urlopen(small.metrics_address, timeout=10).read().decode()
    assert 'nv_inference_pending_request_count{model="classifier",version="1"} 0' in text
    admission = tokenizing("admission")
    pending = admission.PendingRequests(small.metrics_address, "classifier")
    assert [pending(), pending()] == [0, 0]
    vars(pending)["_connection"].sock.shutdown(socket.SHUT_RDWR)  # as of one that was idle for too long
    assert pending() == 0
    with pytest.raises(admission.PendingUnknownError, match="no nv_inference_pending_request_count"):
        admission.PendingRequests(small.metrics_address, "nobody")()
