import resource
from pathlib import Path

import pytest

from rejection_server import limits
from rejection_server.host.errors import ModelProcessError, TritonExitedError


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A control group below another."""
    group = tmp_path / "groups" / "pod" / "container"
    group.mkdir(parents=True)
    (tmp_path / "membership").write_text("1:name=x:/elsewhere\n0::/pod/container\n")
    monkeypatch.setattr(limits, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(limits, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return group


def test_without_limits_it_is_the_machines_memory(group: Path) -> None:
    (group / "memory.max").write_text("max\n")
    assert limits.memory_limits().endswith("MiB free on the machine")
    assert limits.oom_kills() == 0
    assert limits.address_space_problem() is None


def test_the_lowest_limit_of_the_groups_counts(group: Path) -> None:
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text(f"{512 << 20}\n")
    assert limits.memory_limits() == "512 MiB in all for the control group (container)"


def test_both_limits_are_told(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (group / "memory.max").write_text(f"{900 << 20}\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (3000 << 20, resource.RLIM_INFINITY))
    assert limits.memory_limits() == (
        "3000 MiB of address space a process (ulimit -v) and 900 MiB in all for the control group (container)"
    )
    assert limits.address_space_problem() is None
    assert "most likely as its memory was used up (3000 MiB of" in str(TritonExitedError(-11))
    assert "memory" not in str(TritonExitedError(1))


def test_a_kill_for_want_of_memory_is_told(group: Path) -> None:
    (group / "memory.max").write_text(f"{900 << 20}\n")
    (group / "memory.events").write_text("low 0\noom 2\noom_kill 2\n")
    assert limits.oom_kills() == 2
    for error in (TritonExitedError(-9), ModelProcessError("classifier_0", -9)):
        assert "memory was used up (900 MiB in all for the control group (container)); allow more" in str(error)
    for error in (TritonExitedError(-11), ModelProcessError("classifier_0", 1)):
        assert "memory" not in str(error)
    (group / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    assert "memory" not in str(TritonExitedError(-9))


def test_what_is_left_is_what_no_group_above_has_used(group: Path) -> None:
    machine = limits.available_bytes()
    assert machine is not None
    assert machine > 1 << 20
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(f"{7 << 10}\n")
    (group.parent / "memory.max").write_text(f"{900 << 10}\n")
    (group.parent / "memory.current").write_text(f"{500 << 10}\n")
    (group.parent / "memory.stat").write_text(f"anon 1\ninactive_file {100 << 10}\n")
    assert limits.available_bytes() == 500 << 10, "files are forgotten first"
