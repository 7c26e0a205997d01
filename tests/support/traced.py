"""Commands under strace: what they and all their children connect to, and where they make files."""

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_SENDING = "connect,sendto,sendmsg,sendmmsg"
_MAKING = "open,openat,creat,mkdir,mkdirat"
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
_MADE = re.compile(
    r'\b(?:mkdir|mkdirat|creat)\((?:AT_FDCWD, )?"([^"]+)".*= \d+$|\bopen(?:at)?\(.*?"([^"]+)", \S*O_CREAT.*= \d+$'
)
_ALLOWED = ("/dev/", "/proc/", "/tmp/python_env_")
"""Beside what is no file: empty folders of Triton's Python backend, which has their place in its code."""


class Traced:
    """The environment of commands that may use one folder only, and what they did.

    Args:
        folder: empty; holds their home, their temporary files and the traces.
        files: whether to see what files they make, too, which takes its time.
    """

    def __init__(self, folder: Path, *, files: bool = False) -> None:
        if shutil.which("strace") is None:
            pytest.skip("watches with strace, which is not installed; scripts/install-toolchains strace installs it")
        self._calls = f"trace={_SENDING},{_MAKING}" if files else f"trace={_SENDING}"
        self.home, self._tmp, self._traces = folder / "home", folder / "t", folder / "traces"
        for made in (self.home, self._tmp, self._traces):
            made.mkdir()
        if subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-qq", "-o", self._traces / "0", "true"], check=False
        ).returncode:
            pytest.skip("watches with strace, which may not trace here")

    def popen(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start `python ARGUMENT ...`, watched, in an environment that hides nothing of what it does elsewhere."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        trace = self._traces / str(len(list(self._traces.iterdir())))
        return subprocess.Popen(
            [
                *("strace", "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-e", self._calls, "-o", trace),
                *(sys.executable, *map(str, arguments)),
            ],
            env={
                **kept,
                "HOME": str(self.home),
                "TMPDIR": str(self._tmp),
                "PYTHONDONTWRITEBYTECODE": "1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, **environment: str) -> str:
        """Run it to its end; returns what it printed."""
        process = self.popen(*arguments, **environment)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return output

    def addresses(self) -> set[str]:
        """All IP addresses that anybody connected or sent to."""
        return {found[1] or found[2] for line in self._lines() if (found := _ADDRESS.search(line))}

    def strangers(self) -> set[str]:
        """Those of them that are not this machine itself."""
        found = map(ipaddress.ip_address, self.addresses())
        return {str(address) for address in found if not (getattr(address, "ipv4_mapped", None) or address).is_loopback}

    def files_outside(self, *folders: Path) -> set[str]:
        """Files and folders that were made neither in these, nor in the folder for temporary files."""
        allowed = (*_ALLOWED, *(f"{folder}" for folder in (self._tmp, *folders)))
        made = {found[1] or found[2] for line in self._lines() if (found := _MADE.search(line))}
        return {path for path in made if path.startswith("/") and not path.startswith(allowed)}

    def _lines(self) -> Sequence[str]:
        return [line for trace in self._traces.iterdir() for line in trace.read_text(errors="replace").splitlines()]
