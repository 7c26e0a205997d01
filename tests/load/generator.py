"""A worker's side of a run: sends the requests of a stage at their times and reports every second what became of them.

Messages (Locust's own, between master and worker):

    hello    to the master: messages are listened to
    stage    to the worker: number, profile, spacing, this worker's share, seed; the server and the kinds of users,
             which the first stage, one without requests, makes ready
    halt     to the worker: send no more of this stage
    report   to the master: every second, the requests that ended and the CPU that this process took; the last one of a
             stage says so: everything sent is answered, or the stage was halted, or there is a problem
"""

from __future__ import annotations

import gc
import logging
import random
import time
from argparse import Namespace
from typing import Any

import gevent
import numpy as np
from gevent.pool import Group

from load import arrivals
from load.record import OK, ROW, UNFINISHED, row
from load.users import USERS, TritonUser

START_DELAY_S = 0.3
"""From the message to a stage's begin: time for every worker to have it."""
REPORT_S = 1.0
YIELD_EVERY = 4
"""Requests sent in a row, when late, before answers are looked after."""
USERS_OF_KIND = 16
"""Users of each kind, which take turns: so that each connection carries each kind."""

_log = logging.getLogger(__name__)


class Generator:
    """Open-loop load out of Locust's users, in one worker process."""

    def __init__(self, environment: Any) -> None:
        self._runner = environment.runner
        self._users: dict[str, list[TritonUser]] = {}
        self._weights: list[int] = []
        self._under_way = Group()
        self._ended: list[tuple[float | int, ...]] = []
        self._messages: dict[str, str] = {}
        """What the server said with the first failure of each code."""
        self._stage = -1
        self._begin_s = self._reported_s = self._cpu_s = 0.0
        self._halted = True
        environment.events.request.add_listener(self._on_request)
        # Concurrent: a stage lasts long, and the messages after it must be read.
        self._runner.register_message("stage", self._on_stage, concurrent=True)
        self._runner.register_message("halt", self._on_halt, concurrent=True)
        self._runner.send_message("hello", {})

    def _connect(self, environment: Any, data: dict[str, Any]) -> None:
        """Be connected, and have the texts read, before the first second counts."""
        channels = TritonUser.connect(data["url"], Namespace(**data["options"]))
        self._weights = list(data["mix"].values())
        for kind in data["mix"]:
            users = self._users[kind] = [USERS[kind](environment) for _ in range(max(USERS_OF_KIND, channels.count))]
            users[0].texts()
            gevent.joinall([gevent.spawn(user.send) for user in users[: channels.count]])
        # What is there by now stays to the end. Looking through it for garbage would take tens of milliseconds, in
        # which nothing is sent and every answer is late.
        gc.collect()
        gc.freeze()

    def _on_stage(self, environment: Any, msg: Any) -> None:
        data = msg.data
        try:
            if not self._users:
                self._connect(environment, data)
        except (ValueError, OSError) as error:
            self._report(problem=str(error), is_last=True)
            return
        self._stage, self._halted, self._ended, self._messages = data["stage"], False, [], {}
        begin_s = self._begin_s = time.perf_counter() + START_DELAY_S
        self._cpu_s, self._reported_s = time.process_time(), time.perf_counter()
        reporter = gevent.spawn(self._report_regularly)
        rng = random.Random(data["seed"] * 1009 + data["worker"])
        kinds = list(self._users)
        times = arrivals.arrivals(data["profile"], data["spacing"], rng, worker=data["worker"], workers=data["workers"])
        in_a_row = 0
        for number, time_s in enumerate(times):
            wait_s = begin_s + time_s - time.perf_counter()
            if wait_s > 0:
                gevent.sleep(wait_s)
                in_a_row = 0
            elif (in_a_row := in_a_row + 1) % YIELD_EVERY == 0:
                gevent.sleep(0)
            if self._halted:
                break
            kind = rng.choices(kinds, self._weights)[0]
            users = self._users[kind]
            self._under_way.start(gevent.Greenlet(_send, users[number % len(users)], begin_s + time_s))
        end_s = begin_s + arrivals.duration_s(data["profile"])
        while time.perf_counter() < end_s and not self._halted:
            gevent.sleep(0.1)
        self._under_way.join(timeout=1.0 if self._halted else None)  # each call has its deadline
        reporter.kill()
        for greenlet in self._under_way:
            user, intended_s = greenlet.args
            times_s = (intended_s - begin_s,) * 3
            self._ended.append(row(type(user).__name__.lower(), times_s, UNFINISHED, 0))
        self._report(is_last=True)

    def _on_halt(self, **_: Any) -> None:
        self._halted = True

    def _on_request(self, name: str, context: dict[str, Any], **_: Any) -> None:
        intended_s, sent_s, ended_s = (time_s - self._begin_s for time_s in context["times_s"])
        if intended_s < 0 or self._stage < 0:
            return  # a first request, or one of a stage that was halted
        self._ended.append(row(name, (intended_s, sent_s, ended_s), context["outcome"], context["texts"]))
        if context["outcome"] != OK:
            self._messages.setdefault(context["outcome"], context["details"])

    def _report_regularly(self) -> None:
        while True:
            gevent.sleep(REPORT_S)
            self._report(is_last=False)

    def _report(self, *, is_last: bool, problem: str = "") -> None:
        cpu_s, now_s = time.process_time(), time.perf_counter()
        ended, self._ended = self._ended, []
        self._runner.send_message(
            "report",
            {
                "stage": self._stage,
                "requests": np.array(ended, ROW).tobytes(),
                "cpu_s": cpu_s - self._cpu_s,
                "wall_s": now_s - self._reported_s,
                "under_way": len(self._under_way),
                "messages": self._messages,
                "is_last": is_last,
                "problem": problem,
            },
        )
        self._cpu_s, self._reported_s = cpu_s, now_s


def _send(user: TritonUser, intended_s: float) -> None:
    try:
        user.send(intended_s)
    except Exception:
        _log.exception("a %s request failed within the generator", type(user).__name__.lower())
