"""Locust's entry for an open loop: as many requests a second arrive as there are "users", whatever the server does.

    .venv/bin/locust -f tests/load/locustfile_open.py --host 127.0.0.1:8001

Options as in locustfile.py; the requests are the mix.
"""

from __future__ import annotations

import random

import gevent

from load import locustfile  # noqa: F401  # its options and its connection
from load.users import USERS, TritonUser, mix


class OpenLoop(TritonUser):
    """One request a second on average, sent without waiting for the answers to earlier ones."""

    def send(self, intended_s: float | None = None) -> None:
        """Wait as independent callers do, then send."""
        gevent.sleep(random.expovariate(1.0))
        kind = random.choices(list(USERS), list(mix("mix").values()))[0]
        gevent.spawn(USERS[kind](self.environment).send, intended_s)
