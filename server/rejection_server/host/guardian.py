"""The process between the launcher and Triton that leaves nothing behind, however either of them ends.

Run as a script, with the standard library only, in a session of its own:

    python -I -S guardian.py SHM_PREFIX RUNTIME_FOLDER STOP_GRACE_S GUARD

    launcher ── commands ──> guardian ──> tritonserver ──> Python backend stubs
             <── status ────          ──> guard

The guardian starts tritonserver as its child, in a process group of its own, and sits between two pipes. Standard
input begins with Triton's command line (`send_command`), which is no argument of the guardian's because it holds keys.
Then it carries the launcher's commands, one byte each: `w` says that the models are loaded, so their processes, as they
are now, are to be watched, `u` that Triton may end some of them and start others until the next `w`, `t` asks Triton to
finish what is in flight and stop, `k` kills it. The pipe's end, or the launcher's death, counts as the launcher's last
command: stop now. Standard output tells the launcher `started PID`, `watching` in answer to `w` after `stub PID
INSTANCE` for each of them, `lost INSTANCE STATUS` when a model's process died, which ends Triton too, and, once
everything is gone, `exited STATUS`. A negative status is a signal. Standard error is handed to Triton.

GUARD is two descriptors, `IN,OUT`, for a guard that stands before Triton: the guardian starts it with these as its
standard input and output, tells `guard PID`, and stops it before Triton, which then has nothing in flight. A guard that
ends unasked is told as `unguarded STATUS` and ends Triton too. Empty is no guard.

Gone means: no process of Triton's group, none that lost its parent (the guardian adopts those), no shared memory whose
name begins with SHM_PREFIX, no RUNTIME_FOLDER. If the guardian itself is killed the kernel kills Triton and the guard,
and the launcher clears up with the same functions.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - this is where POSIX shared memory lives on Linux
ORPHAN_GRACE_S = 3.0
"""How long Triton may take to stop by itself once the launcher is gone."""
LOST_GRACE_S = 5.0
"""How long Triton may take to stop once it lost a model's process, which it would wait for until its own timeout."""
EMPTY_GRACE_S = 3.0
"""How long Triton may take to stop after the guard answered all that was in flight. It unloads an
instance a second, for which nobody has to wait."""
KILL_WAIT_S = 5.0
CLOSE_UP_S = 1.0
"""How often regions of models that came meanwhile are closed to other users."""
MOST_FILES = 1 << 16
"""Open files that a process may have, where the system leaves it at less and lets it be raised."""
GUARD_MODULE = "rejection_server.guard"
STUB = "triton_python_backend_stub"
STUB_INSTANCE = 8
"""Which of a stub's arguments is the name of the model instance."""
KEY_ARGUMENTS = ("--grpc-restricted-protocol=", "--http-restricted-api=")
"""Of Triton's arguments those with a key, at their end after the second `=`."""
ARGUMENTS_START = 45
"""Which field of /proc/PID/stat, after the name, tells where the arguments are in memory; the next tells their end."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> int:
    """Start the command, watch it and the launcher, clear up; returns 0 once everything is gone."""
    shm_prefix, runtime_folder, stop_grace_s, guard_fds = arguments
    command = _receive_command()
    if not command:  # the launcher ended first
        remove_leftovers(shm_prefix, Path(runtime_folder))
        return 1
    _raise_file_limit()
    prctl = _prctl()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on_signals()
    parent = os.getppid()
    # The command pipe alone would miss the launcher's death while a fork of it still holds the pipe's other end. A
    # launcher that ended before this line has another parent in its place: then the pipe has to do.
    launcher = _open_pidfd(parent) if os.getppid() == parent else None
    pipes = [int(descriptor) for descriptor in guard_fds.split(",") if descriptor]
    for descriptor in pipes:
        os.set_inheritable(descriptor, False)
    with open(os.devnull) as null:  # noqa: PTH123 - a descriptor is wanted
        triton = _spawn(command, prctl, null.fileno(), 2)
    _tell(f"started {triton}")
    guard = _spawn([sys.executable, "-P", "-m", GUARD_MODULE], prctl, *pipes) if pipes else None
    for descriptor in pipes:  # they are to end with the guard
        os.close(descriptor)
    if guard is not None:
        _tell(f"guard {guard}")
    watch = _Watch((triton, guard), (launcher, wake), float(stop_grace_s), shm_prefix)
    watch.keys = [argument.split("=", 2)[2].encode() for argument in command if argument.startswith(KEY_ARGUMENTS)]
    status = watch.until_exit()
    kill_group(triton)
    _kill_adopted()
    remove_leftovers(shm_prefix, Path(runtime_folder))
    _tell(f"exited {status}")
    return 0


def kill_group(group: int) -> None:
    """Kill every process of a process group; it is fine if there is none."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def remove_leftovers(shm_prefix: str, runtime_folder: Path) -> None:
    """Remove the shared memory regions whose names begin with the prefix, then the runtime folder."""
    if shm_prefix:
        for region in SHARED_MEMORY.glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)
    shutil.rmtree(runtime_folder, ignore_errors=True)


def send_command(pipe: int, command: list[str]) -> None:
    """Tell a guardian, by its standard input, what to start."""
    message = "\0".join(command).encode(errors="surrogateescape")
    os.write(pipe, len(message).to_bytes(4, "big") + message)


def _receive_command() -> list[str]:
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        size = int.from_bytes(pipe.read(4), "big")
        message = b""
        while len(message) < size and (part := pipe.read(size - len(message))):
            message += part
    return os.fsdecode(message).split("\0") if message else []


def _hide(keys: list[bytes], triton: int) -> None:
    """Overwrite the keys among Triton's arguments, which it has read, with stars: anybody may list arguments."""
    # Where the kernel forbids it, they stay.
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{triton}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
        fields = Path(f"/proc/{triton}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[ARGUMENTS_START]), int(fields[ARGUMENTS_START + 1])
        memory.seek(start)
        arguments = memory.read(end - start)
        for key in keys:
            arguments = arguments.replace(key, b"*" * len(key))
        memory.seek(start)
        memory.write(arguments)


def _close_regions(shm_prefix: str) -> None:
    """Close the shared memory of Triton and its models, which has texts in it, to other users."""
    for region in SHARED_MEMORY.glob(f"{shm_prefix}*"):
        with contextlib.suppress(OSError):  # it may have gone
            region.chmod(0o600)


class _Watch:
    """Relays the launcher's commands until Triton has ended.

    Args:
        children: Triton's process and that of the guard before it, None if there is none.
        tell: descriptors that tell the launcher's end (None leaves that to the pipe of commands) and of signals.
        stop_grace_s: how long Triton may take to stop when it is asked to.
        shm_prefix: of the names of Triton's shared memory regions, which other users are kept out of.
    """

    def __init__(
        self,
        children: tuple[int, int | None],
        tell: tuple[int | None, int],
        stop_grace_s: float,
        shm_prefix: str,
    ) -> None:
        self._triton, self._guard = children
        self._launcher, self._wake = launcher, wake = tell
        self._stop_grace_s = stop_grace_s
        self._shm_prefix = shm_prefix
        self.keys: list[bytes] = []
        """What is among Triton's arguments and not for everybody to see."""
        self._unloads = False
        """Whether Triton may end a model's process while it serves, because it was told to unload the model."""
        self._commands = sys.stdin.fileno()
        self._sources = {self._commands, wake} | ({launcher} if launcher is not None else set())
        self._stubs: dict[int, tuple[int, str]] = {}
        self._kill_at = float("inf")
        self._is_empty = False
        """Whether Triton has been told to stop after everybody had an answer."""

    def until_exit(self) -> int:
        """Returns Triton's status, negative for a signal."""
        while True:
            timeout_s = None if self._kill_at == float("inf") else max(0.0, self._kill_at - time.monotonic())
            if self._unloads:
                _close_regions(self._shm_prefix)
                timeout_s = min(CLOSE_UP_S, CLOSE_UP_S if timeout_s is None else timeout_s)
            ready = set(select.select([*self._sources, *self._stubs], [], [], timeout_s)[0])
            if self._wake in ready:
                received = set(os.read(self._wake, 4096))
                ended = _reap()
                if self._triton in ended:
                    # Triton may still have what nobody waited for any more: how it took that does not matter.
                    return 0 if self._is_empty else ended[self._triton]
                if self._guard in ended:
                    self._mourn_guard(ended[self._guard])
                if received - {signal.SIGCHLD}:  # somebody signalled the guardian: it means Triton
                    self._stop(self._stop_grace_s)
            for descriptor in self._stubs.keys() & ready:
                self._bury(descriptor)
            self._obey(os.read(self._commands, 1) if self._commands in ready else None, self._launcher in ready)
            if time.monotonic() >= self._kill_at:
                os.kill(self._triton, signal.SIGKILL)
                if self._is_empty:
                    return 0
                self._kill_at = time.monotonic() + KILL_WAIT_S

    def _stop(self, grace_s: float) -> None:
        os.kill(self._triton if self._guard is None else self._guard, signal.SIGTERM)
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    def _mourn_guard(self, status: int) -> None:
        """The guard has ended: as it was told to, with all calls answered, or unasked."""
        self._guard = None
        if self._kill_at == float("inf"):
            _tell(f"unguarded {status}")
            self._stop(LOST_GRACE_S)
            return
        self._is_empty = status == 0
        self._stop(EMPTY_GRACE_S)

    def _obey(self, command: bytes | None, is_orphaned: bool) -> None:
        if command == b"w":
            self._unloads = False
            _close_regions(self._shm_prefix)
            _hide(self.keys, self._triton)
            for descriptor in self._stubs:
                os.close(descriptor)
            self._stubs = _open_stubs(self._triton)
            for pid, instance in self._stubs.values():
                _tell(f"stub {pid} {instance}")
            _tell("watching")
        elif command == b"u":
            self._unloads = True
        elif command == b"t":
            self._stop(self._stop_grace_s)
        elif command == b"k":
            self._kill_at = time.monotonic()
        elif command == b"" or is_orphaned:
            self._sources = {self._wake}
            self._stop(min(ORPHAN_GRACE_S, self._stop_grace_s))

    def _bury(self, descriptor: int) -> None:
        """Look at how the process of a model ended; without it Triton is of no use."""
        pid, instance = self._stubs.pop(descriptor)
        os.close(descriptor)
        status = _zombie_status(pid)
        # Processes that end while Triton stops, or unloads a model, end well. A machine under load may let Triton
        # collect one before it is looked at here: then only what Triton was told says whether that was wanted.
        lost = not self._unloads if status is None else status != 0
        if lost and self._kill_at == float("inf"):
            _tell(f"lost {instance} {status or 0}")
            self._stop(LOST_GRACE_S)


def _open_stubs(triton: int) -> dict[int, tuple[int, str]]:
    """Of each process of a Python model: a descriptor that tells its end, its number and its instance's name."""
    stubs = {}
    for file in Path(f"/proc/{triton}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, file.read_text().split()):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                descriptor = _open_pidfd(pid)
                if descriptor is not None and arguments[0].endswith(STUB):
                    stubs[descriptor] = (pid, arguments[STUB_INSTANCE])
    return stubs


def _zombie_status(pid: int) -> int | None:
    """How a process that its parent has not collected ended, negative for a signal; None if it has been collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] in "ZX" else None


def _reap() -> dict[int | None, int]:
    """Collect every ended child: status by process."""
    ended: dict[int | None, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, waited = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(waited)
    return ended


def _kill_adopted() -> None:
    """Kill what is left of Triton's descendants: each became the guardian's child when its parent ended."""
    deadline = time.monotonic() + KILL_WAIT_S
    while time.monotonic() < deadline:
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:  # a kernel without this file: killing the process group has to do
            children = []
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _raise_file_limit() -> None:
    """Let this process and its children have as many open files as the system allows: each caller takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _spawn(command: list[str], prctl: Callable[[int, int], object], stdin: int, stdout: int) -> int:
    """Start the command in a session of its own, killed by the kernel if the guardian dies first."""
    guardian = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:  # it died before the line above
            os._exit(1)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.closerange(3, 256)
        # SIGPIPE stays ignored, as Python set it: Triton must be able to finish when nobody reads its log any more.
        os.execv(command[0], command)  # noqa: S606 - the launcher's command, no shell
    except OSError as exc:
        os.write(2, f"cannot start {command[0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(127)


def _wake_on_signals() -> int:
    """Make signals readable from the returned descriptor, so that one `select` waits for everything."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _prctl() -> Callable[[int, int], object]:
    """The system call prctl(option, value), or a substitute doing nothing where Python lacks ctypes."""
    try:
        import ctypes
    except ImportError:
        return lambda _option, _value: None
    libc = ctypes.CDLL(None)
    return lambda option, value: libc.prctl(option, value, 0, 0, 0)


def _tell(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the launcher may be gone
        os.write(1, f"{message}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
