"""How many requests may wait: the bound that the tokenizer keeps, by what Triton counts."""

import socket
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.prepare.configuration import Device, Shape, configurations
from support.repository import REPOSITORY, tokenizing

admission = tokenizing("admission")


class Queue:
    """Counts what waits, as Triton's metrics do, and how often it was asked."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.asked = 0
        self.is_known = True
        self.is_late = False
        self.now = 0.0
        self.warnings: list[str] = []

    def __call__(self) -> int:
        self.asked += 1
        if not self.is_known:
            raise admission.PendingUnknownError("metrics: gone")
        if self.is_late:
            raise admission.PendingLateError("metrics: late")
        return self.waiting

    def bound(self, limit: int, **options: Any) -> Any:
        return admission.Admission(limit, self, warn=self.warnings.append, clock=lambda: self.now, **options)


def test_nothing_is_asked_while_no_more_can_be_waiting_than_may() -> None:
    queue = Queue()
    bound = queue.bound(10)
    assert [bound.admit(4), bound.admit(6)] == [4, 6]
    assert queue.asked == 0
    assert bound.admit(1) == 1
    assert queue.asked == 1


def test_as_many_pass_as_there_is_room_for() -> None:
    queue = Queue()
    bound = queue.bound(10)
    bound.admit(10)
    queue.waiting = 7
    assert bound.admit(64) == 3
    queue.waiting = 10
    assert bound.admit(64) == 0
    queue.waiting = 500  # of callers that go to the classifier itself
    queue.now += 1
    assert bound.admit(1) == 0


def test_a_full_queue_is_not_asked_about_at_every_request_and_opens_again() -> None:
    queue = Queue(waiting=10)
    bound = queue.bound(10)
    bound.admit(10)
    assert [bound.admit(1) for _ in range(100)] == [0] * 100
    assert queue.asked == 1
    queue.waiting = 4
    queue.now += 2 * admission.FULL_S
    assert bound.admit(64) == 6
    assert queue.asked == 2


def test_a_queue_that_stays_full_is_held_at_half_until_there_was_a_pause() -> None:
    queue = Queue(waiting=10)
    bound = queue.bound(10)
    bound.admit(10)
    admitted = []
    for _ in range(15):
        queue.waiting = 8
        admitted.append(bound.admit(64))
        queue.now += 0.125  # a second is eight of these exactly
    assert admitted == [2] * 8 + [0] * 7
    queue.waiting = 3
    assert bound.admit(64) == 2
    queue.now += admission.STANDING_S
    assert bound.admit(64) == 7


def test_bursts_with_pauses_find_the_whole_queue() -> None:
    queue = Queue(waiting=8)
    bound = queue.bound(10)
    bound.admit(10)
    for _ in range(5):
        assert bound.admit(64) == 2
        queue.now += admission.STANDING_S


def test_sharers_take_their_parts_of_the_room_and_each_at_least_one() -> None:
    queue = Queue()
    first, second = (queue.bound(10, sharers=2) for _ in range(2))
    assert first.admit(5) + second.admit(5) == 10
    assert queue.asked == 0
    queue.waiting = 10
    assert [first.admit(1), second.admit(1)] == [0, 0]
    assert Queue().bound(1, sharers=4).admit(3) == 1


def test_without_metrics_all_pass_and_the_log_says_so_once() -> None:
    queue = Queue(waiting=10)
    queue.is_known = False
    bound = queue.bound(10)
    assert [bound.admit(64) for _ in range(5)] == [64] * 5
    assert queue.warnings == ["the number of waiting requests is not bounded: cannot read metrics: gone"]
    assert queue.asked == 1
    queue.now += 2 * admission.UNKNOWN_S
    assert bound.admit(64) == 64
    queue.is_known = True
    queue.now += 2 * admission.UNKNOWN_S
    assert bound.admit(64) == 0
    assert len(queue.warnings) == 1


def test_a_server_too_busy_to_say_how_many_wait_is_full() -> None:
    queue = Queue(waiting=3)
    queue.is_late = True
    bound = queue.bound(10)
    assert bound.admit(10) == 10
    assert [bound.admit(1) for _ in range(100)] == [0] * 100
    assert queue.asked == 1, "waiting for an answer holds up all that is tokenised"
    queue.now += 2 * admission.LATE_S
    assert bound.admit(1) == 0
    assert queue.asked == 2
    assert "too busy to say how many requests wait" in bound.refusal, "a full queue is not what is known"
    queue.is_late = False
    queue.now += 2 * admission.LATE_S
    assert bound.admit(64) == 2, "the half of a queue that stood full, less the three"
    assert bound.refusal == "the queue is full: at most 10 requests wait for the classifier"
    assert queue.warnings == []


def test_nobody_who_never_answers_keeps_the_server_shut() -> None:
    queue = Queue()
    queue.is_late = True
    bound = queue.bound(10)
    bound.admit(10)
    while queue.now < admission.SILENCE_S:
        assert bound.admit(1) == 0
        queue.now += 0.5
    assert bound.admit(64) == 64
    assert queue.warnings == ["the number of waiting requests is not bounded: cannot read metrics: late"]
    queue.now += 0.5
    assert bound.admit(64) == 64


def test_no_limit() -> None:
    queue = Queue(waiting=10**6)
    assert queue.bound(0).admit(10**6) == 10**6
    assert queue.asked == 0


def test_nobody_answers_at_the_address() -> None:
    with pytest.raises(admission.PendingUnknownError, match=r"http://127\.0\.0\.1:1/metrics for model 'classifier'"):
        admission.PendingRequests("http://127.0.0.1:1/metrics", "classifier")()


def test_somebody_who_does_not_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/metrics"
        with pytest.raises(admission.PendingLateError, match="timed out"):
            admission.PendingRequests(url, "classifier", timeout_s=0.05)()


def model_configurations() -> Iterator[tuple[str, str]]:
    for path in sorted(REPOSITORY.glob("*/config.pbtxt")):
        yield path.parent.name, path.read_text(encoding="utf-8")
    for device in get_args(Device):
        for name, text in configurations(Shape(("a", "b"), 512, device=device)).items():
            if name.endswith("/config.pbtxt"):
                yield f"{name}-{device}", text


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in model_configurations()])
def test_no_queue_of_triton_has_a_bound_since_requests_would_wait_beside_idle_instances(text: str) -> None:
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    batching = config.dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_queue_policy
    assert not batching.priority_levels
