"""docs/operations.md and the unit of systemd say what is so."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rejection_server.parser import parse
from support.guard_snapshot import SNAPSHOT
from support.repository import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
UNIT = ROOT / "deploy" / "systemd" / "rejection.service"
METRICS = SNAPSHOT.prometheus({"guard": 1})


def test_three_ways_to_set_an_option_are_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(--[^`]+)` \| `(REJECTION_[^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for option, variable, line in rows:
        by_option = parse(["serve", *option.split()])[0]
        name, _, value = variable.partition("=")
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert parse(["serve"])[0] == by_option, variable
        file = tmp_path / "serve.toml"
        file.write_text(line)
        by_file = parse(["serve", "--config", str(file)])[0]
        by_file.config = None
        assert by_file == by_option, line
        assert by_option != parse(["serve"])[0]


def test_every_alert_has_its_paragraph() -> None:
    rules = (ROOT / "docker" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)}
    runbooks = re.findall(r"runbook: docs/operations\.md#(\w+)$", rules, re.MULTILINE)
    assert len(runbooks) == rules.count("- alert:")
    assert set(runbooks) == headings


def test_every_metric_of_the_guard_is_on_the_page() -> None:
    names = {line.split()[2] for line in METRICS.splitlines() if line.startswith("# TYPE")}
    shown = set(re.findall(r"`(rejection_[a-z_]+)", PAGE))
    shown |= {f"rejection_guard_{end}" for end in re.findall(r"`\.\.\._([a-z_]+)`", PAGE)}
    assert names <= shown


def test_the_unit_is_one(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze here")
    words = UNIT.read_text(encoding="utf-8").replace("/opt/rejection/bin/rejection-server", shutil.which("true") or "")
    copy = tmp_path / UNIT.name
    copy.write_text(words, encoding="utf-8")
    done = subprocess.run([tool, "verify", str(copy)], capture_output=True, text=True)
    # Of a key that it does not know it only warns.
    assert (done.returncode, done.stderr) == (0, "")
