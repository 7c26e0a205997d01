"""A real Prometheus on a free port, and what it answers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here; scripts/install-toolchains prometheus installs it")
    return found


class Prometheus:
    """Answers queries over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> Any:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> dict[str, float]:
        """Each series' present value, by its labels; those that are no number left out."""
        found = self.ask("query", query=expression)["result"]
        values = {json.dumps(series["metric"], sort_keys=True): float(series["value"][1]) for series in found}
        return {labels: value for labels, value in values.items() if value == value}


@contextmanager
def prometheus(folder: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Prometheus, which asks `target` (HOST:PORT) twice a second, as job "rejection"."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text(
        json.dumps(  # which is YAML
            {
                "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
                "rule_files": [str(rules)],
                "scrape_configs": [{"job_name": "rejection", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    process = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        asked = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while True:
            try:
                if asked.value('up{job="rejection"} == 1'):
                    break
            except OSError:
                assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield asked
    finally:
        process.terminate()
        process.wait(30)
