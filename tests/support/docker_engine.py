"""A Docker engine of the tests' own: Debian's, started by hand in a folder, which is all that is left to remove.

It has two forms over one store. For building it uses the host's network and no bridge. For compose it runs in a network
namespace of its own, with bridges, names and published ports, from which nothing outside can be reached.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from support.repository import ROOT

DOCKER, DOCKERD = "/usr/bin/docker", "/usr/sbin/dockerd"
BASE = "debian:bookworm-slim"
START_S = 60
STOP_S = 60
STORE_BYTES = 8 * 2**30
CA = Path("/etc/ssl/certs/ca-certificates.crt")
# What Debian's own slim image leaves out, too.
LEFT_OUT = ("doc", "info", "locale", "man")


def missing() -> str | None:
    """Why no engine can be had, in words for a skipped test; None if it can."""
    if os.geteuid() != 0:
        return "an engine of the tests' own is started by root alone"
    for program in (DOCKER, DOCKERD, "mmdebstrap", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"no {program} here; scripts/install-toolchains docker installs it"
    return None


class Engine:
    """A running engine; `docker` runs a command of Docker on it."""

    def __init__(self, folder: Path, *, with_bridges: bool) -> None:
        self._folder = folder
        self._socket = folder / "socket"
        pidfile = folder / "pid"
        command = [DOCKERD, "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", pidfile]
        command += ["--host", f"unix://{self._socket}"]
        if not with_bridges:
            command += ["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
        self._log = (folder / "log").open("ab")
        inside = ["unshare", "--net", "bash", "-c", 'ip link set lo up; exec "$@"', "-"] if with_bridges else []
        self._process = subprocess.Popen(
            [*inside, *map(str, command)], stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._enter = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net"] if with_bridges else []
        deadline = time.monotonic() + START_S
        while self.run(["version"], check=False).returncode:
            assert self._process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the engine did not start"
            time.sleep(0.2)

    @property
    def host(self) -> str:
        """What DOCKER_HOST is set to for other programs."""
        return f"unix://{self._socket}"

    def run(self, arguments: Sequence[str], *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run `docker ARGUMENTS`; AssertionError with its output if it fails."""
        return self.enter([DOCKER, "--host", self.host, *arguments], check=check)

    def enter(self, command: Sequence[str], *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command in the engine's network."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run([*self._enter, *command], capture_output=True, text=True, check=False, env=environment)
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def docker(self, *arguments: str) -> str:
        """What `docker ARGUMENTS` prints."""
        return self.run(arguments).stdout.strip()

    def build(self, file: str, tag: str, *arguments: str) -> None:
        """Build an image of this checkout as anybody would; pip gets this machine's authorities, if it has any."""
        settings = self._folder / "pip.conf"
        settings.write_text(f"[global]\ncert = {CA}\n")
        secrets = ["--secret", f"id=ca,src={CA}", "--secret", f"id=pip,src={settings}"] if CA.exists() else []
        self.run(["build", "--network", "host", "--file", file, "--tag", tag, *secrets, *arguments, str(ROOT)])

    def stop(self) -> None:
        """End the engine and what runs on it; it may have ended."""
        if self._process.poll() is not None:
            return
        for container in self.docker("ps", "--all", "--quiet").split():
            self.run(["rm", "--force", container], check=False)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._log.close()


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for engines, with a short name, for a socket's path has a limit; nothing is left of it.

    In memory where there is enough: no file of the many waits for a disk, and all are gone at once.
    """
    folder = Path(tempfile.mkdtemp(prefix="rejection-docker-"))
    if psutil.virtual_memory().available > 2 * STORE_BYTES:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", folder], check=True)
    folder.chmod(0o755)  # apt downloads as a user of its own
    try:
        yield folder
    finally:
        for mount in _mounts_in(folder):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        shutil.rmtree(folder)


@contextlib.contextmanager
def running(folder: Path, *, with_bridges: bool) -> Iterator[Engine]:
    """An engine over the store in `folder`, one at a time."""
    engine = Engine(folder, with_bridges=with_bridges)
    try:
        yield engine
    finally:
        engine.stop()


def import_base(engine: Engine, folder: Path) -> None:
    """Make Debian's image by its public name, for none can be fetched here."""
    archive = folder / "base.tar"
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    clean = "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*.bin $1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", *without, clean.replace("$1", '"$1"'), "bookworm", archive],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    engine.docker("import", str(archive), BASE)
    archive.unlink()


def _mounts_in(folder: Path) -> list[str]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((mount for mount in mounts if Path(mount).is_relative_to(folder)), reverse=True)
