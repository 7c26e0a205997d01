import logging
import os
import shutil
from pathlib import Path

import pytest

from rejection_server.host import surroundings
from rejection_server.host.errors import HostError, OptionError
from rejection_server.host.layout import LONGEST_FOLDER, lay_out
from rejection_server.host.locate import find_wheel
from rejection_server.host.surroundings import check_log, check_surroundings, why_unusable


def test_a_folder_that_will_do(tmp_path: Path) -> None:
    assert why_unusable(tmp_path, 1) is None


def test_folders_that_will_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert why_unusable(tmp_path / "nowhere", 1) == "is not there"
    assert why_unusable(tmp_path / "file", 1) == "is not there"
    assert why_unusable("/proc/self", 1) in ("is not writable", "is mounted noexec")
    assert str(why_unusable(tmp_path, 2**60)).startswith("is full (")


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nowhere"))
    monkeypatch.setattr("rejection_server.host.layout.NEEDED_MIB", 2**40)
    with pytest.raises(HostError, match=r"/nowhere is not there, .*/var/tmp is .*: set TMPDIR to a writable one with"):
        lay_out(find_wheel())


def test_long_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket's name has 107 bytes at most."""
    deep = tmp_path / ("d" * LONGEST_FOLDER)
    deep.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    layout = lay_out(find_wheel())
    os.close(layout.alive_fd)
    shutil.rmtree(layout.folder)
    assert layout.folder.parent == Path("/tmp")
    monkeypatch.setattr("rejection_server.host.layout.LONGEST_FOLDER", 1)
    with pytest.raises(HostError, match=r"/tmp has a name longer than 1 bytes, with which no socket can be made in it"):
        lay_out(find_wheel())


def test_a_folder_that_fills_up_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(HostError, match=r"cannot be filled \(No space left on device\): set TMPDIR"):
        lay_out(find_wheel())
    assert not list(tmp_path.iterdir())


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(surroundings, "PROCESSES", tmp_path)
    with pytest.raises(HostError, match=r"is not mounted, by which .*: mount it"):
        check_surroundings()


def test_a_system_without_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(surroundings, "SHARED_MEMORY", tmp_path / "shm")
    with pytest.raises(HostError, match=r"/shm, which is not there: have a writable tmpfs there"):
        check_surroundings()


def test_little_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(surroundings, "LARGEST_REQUEST_MIB", 2**40)
    with caplog.at_level(logging.WARNING):
        check_surroundings()
    assert "with which requests of many large texts fail" in caplog.text


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    check_log(None)
    check_log(tmp_path / "log")
    with pytest.raises(OptionError, match=r"cannot be written to .*/nowhere/log \(No such file or directory\): name"):
        check_log(tmp_path / "nowhere" / "log")
