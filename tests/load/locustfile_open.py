"""Locust's entry for an open loop: as many requests a second arrive as there are "users", whatever the server does.

    PYTHONPATH=client .venv/bin/locust -f tests/load/locustfile_open.py --host 127.0.0.1:8001

Options as in locustfile.py; the requests are the mix.
"""

from __future__ import annotations

import random

import gevent
import locustfile  # noqa: F401  # its options, its connection, its paths
from locust import task

from load import generator
from load.users import KINDS, TritonUser


class OpenLoop(TritonUser):
    """One request a second on average, sent without waiting for the answers to earlier ones."""

    profile = "mixed"

    @task
    def arrive(self) -> None:
        gevent.sleep(random.expovariate(1.0))
        kinds = list(KINDS.values())
        user = random.choices(kinds, [kind.weight for kind in kinds])[0]
        gevent.spawn(generator.send, user(self.environment), None)
