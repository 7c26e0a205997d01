"""The processes of one server as the launcher sees them: it starts the guardian, which starts the rest, and listens."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rejection_server.host import guardian
from rejection_server.host.errors import GuardError, HostError, ModelProcessError, SilenceError, describe_exit
from rejection_server.host.guard_link import GuardLink
from rejection_server.host.layout import Layout
from rejection_server.host.log_pump import log_lines

__all__ = ["Processes"]

SIGNAL_DELAY_S = 0.2
ABANDON_S = 10.0
KILL_WAIT_S = 5.0
WATCH_WAIT_S = 10.0
PUMP_S = 10.0
"""How long the rest of the log, which says what failed, may take to be read."""
KEPT_LINES = 2000

_log = logging.getLogger(__name__)


class Processes:
    """Guardian, Triton, its models' processes and, if wanted, the guard, from the start to the end of all.

    Args:
        layout: the folder that Triton runs from, which goes with them.
        on_line: called, from another thread, with each line of their log, those aside that come too often.
        on_event: called, from another thread, with each event that the guard tells.
        log_path: file that these lines are appended to; None for none.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        on_line: Callable[[str], None],
        on_event: Callable[[Mapping[str, Any]], None],
        log_path: Path | None,
    ) -> None:
        self._layout = layout
        self._on_line = on_line
        self._on_event = on_event
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._is_followed = False
        self._unasked = True
        self._status: int | None = None
        self._exited = threading.Event()
        self.log: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        """The last lines of the log."""
        self.line_count = 0
        """Lines of the log so far."""
        self.guard: GuardLink | None = None
        """The way to the guard, None without one."""
        self.triton_pid: int | None = None
        self.guard_pid: int | None = None
        self.stubs: dict[int, str] = {}
        """Name of the model instance by process, once `watching` is set."""
        self.watching = threading.Event()
        """Set when the end of a model's process would be noticed."""
        self.returncode: int | None = None
        """Triton's exit status, negative for a signal; None while it runs."""
        self.failure: HostError | None = None
        """What made the server useless while it served."""

    def start(self, command: list[str], environment: Mapping[str, str], *, stop_grace_s: float, guarded: bool) -> None:
        """Start Triton with this command line, and the guard, which waits for its settings."""
        self.guard = GuardLink(self._guard_tells) if guarded else None
        guard_fds = self.guard.child_fds if self.guard is not None else ()
        layout = self._layout
        folder, fds = str(layout.folder), ",".join(map(str, guard_fds))
        process = self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", guardian.__file__),
                *(layout.shm_prefix, folder, str(stop_grace_s), fds),
            ],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=[layout.alive_fd, *guard_fds],
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is noticed below
            guardian.send_command(process.stdin.fileno(), command)
        pump = threading.Thread(target=self._pump_log, args=(process,), name="triton-log", daemon=True)
        pump.start()
        threading.Thread(target=self._follow, args=(process, pump), name="triton-status", daemon=True).start()
        self._is_followed = True
        if self.guard is not None:
            self.guard.given()

    def watch(self, *, unloads: bool) -> None:
        """Have the models' processes watched, as they are now that the models are loaded; returns once they are.

        Args:
            unloads: whether somebody may have Triton unload a model, by which its process ends well.
        """
        self.stubs = {}
        self.watching.clear()
        self._command(b"wu" if unloads else b"w")
        self.watching.wait(WATCH_WAIT_S)

    def let_change(self) -> None:
        """Take the end of a model's process for wanted, if it ends well, until the next `watch`."""
        self._command(b"u")

    def request_stop(self) -> None:
        """Ask for an end with all calls answered, without waiting; safe in a signal handler."""
        self._unasked = False
        self._command(b"t")

    def kill(self) -> None:
        """End all at once; safe in a signal handler."""
        self._unasked = False
        self._command(b"k")

    def fail(self, error: HostError) -> None:
        """End at once a server that is of no use any more, unless its end was asked for."""
        if not self._unasked:
            return
        self.failure = self.failure or error
        self._command(b"k")
        if not self._exited.wait(KILL_WAIT_S) and self._process is not None:
            self._process.kill()  # the guardian stands still, too; the kernel ends the others with it

    @property
    def is_stopping(self) -> bool:
        """Whether the end has been asked for, or has come."""
        return not self._unasked or self._exited.is_set()

    @property
    def ended_unasked(self) -> bool:
        """Whether all has ended, and nobody wanted it."""
        return self._unasked and self._exited.is_set()

    def wait(self, timeout_s: float = float("inf")) -> bool:
        """Wait until all has ended and nothing is left; False if that is not so after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        # In short waits: a signal just before a wait, or taken by another thread, does not end it, and its handler runs
        # only after it.
        while not self._exited.wait(min(SIGNAL_DELAY_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
        return True

    def abandon(self) -> None:
        """End all at once, however far the start has come, and wait for that."""
        self.kill()
        if self._is_followed:
            self._exited.wait()
            return
        # Interrupted (Ctrl-C) before there was a thread that waits for the guardian's end.
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=ABANDON_S)
            self._process.kill()
            self._process.wait()
        self._clear_up()
        self.returncode = 0
        self._exited.set()

    def _command(self, command: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ValueError):  # it may have ended: that is what was wanted
            os.write(self._process.stdin.fileno(), command)

    def _guard_tells(self, event: Mapping[str, Any]) -> None:
        self._on_event(event)
        if event["event"] == "unhealthy":
            named = re.search(r"Stub process '([^']+)'", str(event.get("message")))
            instance = f"model instance {named[1]}" if named else "a model instance"
            self.fail(
                SilenceError(
                    f"Triton gave up {instance}, whose process did not run for a second: the server was stopped, start "
                    "it again"
                )
            )

    def _pump_log(self, process: subprocess.Popen[bytes]) -> None:
        """Take lines from Triton and the guard until neither can write any more."""
        assert process.stderr is not None
        path = self._log_path
        with contextlib.ExitStack() as held:
            file = held.enter_context(path.open("a", buffering=1, encoding="utf-8")) if path else None
            for line in log_lines(process.stderr):
                if file is not None:
                    file.write(f"{line}\n")
                self.log.append(line)
                self.line_count += 1
                self._on_line(line)

    def _follow(self, process: subprocess.Popen[bytes], pump: threading.Thread) -> None:
        """Take the guardian's word for what happens, and its place if it was killed."""
        assert process.stdout is not None
        for line in process.stdout:
            event, _, value = line.decode().strip().partition(" ")
            self._heed(event, value)
        process.wait()
        if self._status is None:
            _log.warning("the guardian of Triton ended unexpectedly")
            if self.triton_pid is not None:
                guardian.kill_group(self.triton_pid)
            self._status = process.returncode if process.returncode else -9
        pump.join(timeout=PUMP_S)
        self._clear_up()
        self.returncode = self._status
        self._exited.set()

    def _heed(self, event: str, value: str) -> None:
        """Take note of what the guardian tells."""
        if event == "started":
            self.triton_pid = int(value)
        elif event == "guard":
            self.guard_pid = int(value)
        elif event == "stub":
            pid, _, instance = value.partition(" ")
            self.stubs[int(pid)] = instance
        elif event == "watching":
            self.watching.set()
        elif event == "lost":
            instance, status = value.split()
            self.failure = self.failure or ModelProcessError(instance, int(status))
        elif event == "unguarded":
            how = describe_exit(int(value), "the guard")
            self.failure = self.failure or GuardError(
                f"{how}: nobody can reach Triton without it, so the server was stopped"
            )
        elif event == "exited":
            self._status = int(value)

    def _clear_up(self) -> None:
        if self.guard is not None:
            self.guard.close()
        guardian.remove_leftovers(self._layout.shm_prefix, self._layout.folder)
        os.close(self._layout.alive_fd)
