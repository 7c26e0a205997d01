"""A worker's side of a run: sends the requests of a stage at their times and reports every second what became of them.

Messages (Locust's own, between master and worker):

    setup    to the worker: connection, texts, share of repeated ones, kinds of users with weights
    stage    to the worker: number, profile, spacing, this worker's share, seed
    halt     to the worker: send no more of this stage
    hello    to the master: messages are listened to
    ready    to the master: after setup, with an error's text if it failed
    cells    to the master: every second, what was counted, and the CPU that this process took
    done     to the master: everything sent is answered
"""

from __future__ import annotations

import gc
import logging
import random
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Group
from locust import events

from load import arrivals
from load.record import OK, Recorder
from load.rpc import Connection, intended_at
from load.users import KINDS, TritonUser

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
        self._environment = environment
        self._users: dict[str, list[TritonUser]] = {}
        self._weights: list[int] = []
        self._under_way = Group()
        self._recorder = Recorder()
        self._messages: dict[str, str] = {}
        """What the server said with the first failure of each code."""
        self._stage = -1
        self._begin_s = 0.0
        self._halted = True
        environment.events.request.add_listener(self._on_request)
        for name, listener in (("setup", self._on_setup), ("stage", self._on_stage), ("halt", self._on_halt)):
            # Concurrent: a stage lasts long, and the messages after it must be read.
            environment.runner.register_message(name, listener, concurrent=True)
        environment.runner.send_message("hello", {})

    def _on_setup(self, environment: Any, msg: Any, **_: Any) -> None:
        problem = ""
        try:
            texts = Path(msg.data["texts"]) if msg.data["texts"] else None
            channels = TritonUser.connect(Connection(**msg.data["connection"]), texts, msg.data["repeat"])
            self._weights = list(msg.data["mix"].values())
            self._users = {
                kind: [KINDS[kind](environment) for _ in range(max(USERS_OF_KIND, channels.count))]
                for kind in msg.data["mix"]
            }
            # Connected, and with the texts read, before the first second counts.
            for users in self._users.values():
                users[0].texts()
                gevent.joinall([gevent.spawn(_prime, user) for user in users[: channels.count]])
            self._recorder.take()
            # What is there by now stays to the end. Looking through it for garbage would take tens of milliseconds, in
            # which nothing is sent and every answer is late.
            gc.collect()
            gc.freeze()
        except (ValueError, OSError) as error:
            problem = str(error)
        environment.runner.send_message("ready", {"problem": problem})

    def _on_stage(self, environment: Any, msg: Any, **_: Any) -> None:
        data = msg.data
        self._stage, self._halted, self._messages = data["stage"], False, {}
        self._recorder.take()
        begin_s = self._begin_s = time.perf_counter() + START_DELAY_S
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
            if self._halted or self._stage != data["stage"]:
                break
            kind = rng.choices(kinds, self._weights)[0]
            self._recorder.cell(int(time_s), kind).sent += 1
            users = self._users[kind]
            self._under_way.start(gevent.Greenlet(send, users[number % len(users)], begin_s + time_s))
        left_s = begin_s + arrivals.duration_s(data["profile"]) - time.perf_counter()
        while left_s > 0 and not self._halted:
            gevent.sleep(min(left_s, 0.1))
            left_s -= 0.1
        self._under_way.join(timeout=1.0 if self._halted else None)  # each call has its deadline
        reporter.kill()
        self._report()
        environment.runner.send_message("done", {"stage": data["stage"]})

    def _on_halt(self, environment: Any, msg: Any, **_: Any) -> None:
        self._halted = True

    def _on_request(self, name: str, context: dict[str, Any], **_: Any) -> None:
        intended_s, sent_s, ended_s = (context[key] - self._begin_s for key in ("intended_s", "sent_s", "ended_s"))
        if intended_s < 0:
            return  # of a stage that was halted
        self._recorder.count(name, intended_s, sent_s, ended_s, context["outcome"], context["rows"])
        if context["outcome"] != OK:
            self._messages.setdefault(context["outcome"], context["details"])

    def _report_regularly(self) -> None:
        self._cpu_s, self._reported_s = time.process_time(), time.perf_counter()
        while True:
            gevent.sleep(REPORT_S)
            self._report()

    def _report(self) -> None:
        cpu_s, now_s = time.process_time(), time.perf_counter()
        self._environment.runner.send_message(
            "cells",
            {
                "stage": self._stage,
                "cells": self._recorder.take(),
                "cpu_s": cpu_s - self._cpu_s,
                "wall_s": now_s - self._reported_s,
                "under_way": len(self._under_way),
                "messages": self._messages,
            },
        )
        self._cpu_s, self._reported_s = cpu_s, now_s


def send(user: TritonUser, intended_s: float | None) -> None:
    """One request of the user, counted from the time it was meant to be sent at (`time.perf_counter`)."""
    if intended_s is not None:
        intended_at(intended_s)
    try:
        task: Any = type(user).tasks[0]
        task(user)
    except Exception:
        _log.exception("a %s request failed within the generator", user.kind())


def _prime(user: TritonUser) -> None:
    """A first request on the user's connection; what it says is found out by the run itself."""
    send(user, time.perf_counter())


def install() -> None:
    """Make a generator of every Locust worker."""

    @events.init.add_listener  # type: ignore[untyped-decorator]
    def on_init(environment: Any, **_: Any) -> None:
        from locust.runners import WorkerRunner

        if isinstance(environment.runner, WorkerRunner):
            Generator(environment)
