"""The programs in proto/examples, built and run by the very commands that their READMEs give."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.repository import ROOT

LANGUAGES = ("python", "node", "cpp", "go", "java", "ruby")

# Packages that are there if their program is, however it came.
PROGRAMS = {
    "cmake": "cmake",
    "default-jdk-headless": "javac",
    "g++": "g++",
    "golang-go": "go",
    "make": "make",
    "nodejs": "node",
    "npm": "npm",
    "pkg-config": "pkg-config",
    "ruby": "ruby",
}
NO_NETWORK = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED")


@dataclass(frozen=True)
class Program:
    """A built program."""

    language: str
    folder: Path
    command: str
    environment: dict[str, str]

    def run(
        self, *arguments: str | Path, stdin: bytes = b"", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it; bytes in and out."""
        command = ["bash", "-c", f'{self.command} "$@"', "classify", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, input=stdin, capture_output=True, timeout=timeout
        )


def build(language: str, folder: Path, python: Path) -> Program:
    """Copy proto/ to `folder` and build the program of a language there; skips where its toolchain is missing."""
    if missing := missing_tools(language):
        pytest.skip(f"{language}: no {', '.join(missing)} here; scripts/install-toolchains {language} installs it")
    shutil.copytree(ROOT / "proto", folder / "proto", ignore=shutil.ignore_patterns("build", "node_modules"))
    here = folder / "proto" / "examples" / language
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GRPC_", "GO"))},
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "GOCACHE": str(folder / "gocache"),
        "GOFLAGS": "-p=1",
    }
    readme = (here / "README.md").read_text()
    if script := fenced(readme, "build"):
        done = subprocess.run(
            ["nice", "bash", "-euo", "pipefail", "-c", script[0]],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
        )
        if done.returncode and language == "node" and NO_NETWORK.search(done.stdout):
            pytest.skip("node: npm reaches no registry here, so the packages of proto/examples/node are missing")
        assert done.returncode == 0, done.stdout[-4000:]
    (run,) = fenced(readme, "run")
    # The command up to its first text.
    return Program(language, here, run.split(' "', 1)[0], environment)


def fenced(readme: str, kind: str) -> list[str]:
    """Blocks of a README that are marked as shell and of a kind."""
    return re.findall(rf"^```sh {kind}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def missing_tools(language: str) -> list[str]:
    """Names of what building in a language takes and this machine lacks."""
    if language == "python":
        return []
    listing = [str(ROOT / "scripts" / "install-toolchains"), "--list", language]
    packages = subprocess.run(listing, check=True, capture_output=True, text=True, timeout=30).stdout.split()
    return [package for package in packages if not is_there(package)]


def is_there(package: str) -> bool:
    """Whether a program, or else Debian's package, is installed."""
    program = PROGRAMS.get(package)
    if program and shutil.which(program):
        return program != "node" or node_is_new_enough()
    if not shutil.which("dpkg-query"):
        return False
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, timeout=30).stdout == "installed"


def node_is_new_enough() -> bool:
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
    return int(version.strip().removeprefix("v").split(".")[0]) >= 20
