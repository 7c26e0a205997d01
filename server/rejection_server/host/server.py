"""Start, watch and stop one embedded Triton."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rejection_server.host import guardian
from rejection_server.host.errors import (
    HostError,
    ModelProcessError,
    PortTakenError,
    StartupTimeoutError,
    TritonExitedError,
)
from rejection_server.host.health import HealthProbe
from rejection_server.host.layout import Layout, lay_out
from rejection_server.host.locate import check_machine, find_wheel
from rejection_server.host.machine import Machine
from rejection_server.host.options import (
    METRICS_URL,
    Endpoints,
    Runtime,
    ServeOptions,
    check_repository,
    choose_endpoints,
    triton_command,
)
from rejection_server.host.sizing import Sizing, sized_repository
from rejection_server.host.surroundings import check_log
from rejection_server.host.triton_log import STUB_FAILED, explain_failure, is_harmless_without_gpu

__all__ = ["Server"]

POLL_S = 0.05
SIGNAL_DELAY_S = 0.2
UNLOAD_S = 15
"""How long unloading the models may take, after the requests in flight."""
WATCH_WAIT_S = 10.0
ABANDON_S = 10.0
KEPT_LINES = 2000
ATTEMPTS = 3
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))

_log = logging.getLogger(__name__)
_triton_log = logging.getLogger("rejection_server.triton")

T = TypeVar("T")


class Server:
    """One embedded Triton with its model repository.

    As a context manager it is ready inside the block and gone after it:

        with Server(ServeOptions(repository=Path("model_repository"), grpc_port=0)) as server:
            print(server.grpc_address)

    Args:
        options: what to serve, and where.
        on_log: called, from another thread, with each line of Triton's log, save those that only say that there is no
            GPU; without it the lines go to the logger `rejection_server.triton`.
        on_wait: called about twenty times a second while the models load, with the seconds since the start.
    """

    def __init__(
        self,
        options: ServeOptions,
        *,
        on_log: Callable[[str], None] | None = None,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        self.options = options
        self._on_log = on_log or _triton_log.info
        self._on_wait = on_wait
        self._has_gpu = any(device.exists() for device in GPU_DEVICES)
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._line_count = 0
        self._endpoints: Endpoints | None = None
        self._layout: Layout | None = None
        self._sizing = Sizing(options.repository, {})
        self._guardian: subprocess.Popen[bytes] | None = None
        self._is_followed = False
        self._pid: int | None = None
        self._returncode: int | None = None
        self._failure: HostError | None = None
        self._stop_requested = False
        self._watching = threading.Event()
        self._exited = threading.Event()

    def start(self) -> None:
        """Start Triton and wait until it and all its models are ready.

        Raises a HostError, and leaves nothing behind, if that does not happen within `startup_timeout_s`.
        """
        check_machine(Machine.current())
        wheel = find_wheel()
        check_repository(self.options.repository)
        check_log(self.options.log_path)
        for attempt in range(1, ATTEMPTS + 1):
            self._guardian = None
            endpoints = self._endpoints = choose_endpoints(self.options)
            layout = self._layout = lay_out(wheel)
            try:
                if self.options.cores is not None:
                    self._sizing = sized_repository(
                        self.options.repository, self.options.cores, layout.folder / "repository"
                    )
                runtime = Runtime(
                    repository=self._sizing.repository,
                    tritonserver=wheel.tritonserver,
                    backends=layout.backends,
                    caches=wheel.caches,
                    shm_prefix=layout.shm_prefix,
                    has_gpu=self._has_gpu,
                )
                self._launch(triton_command(self.options, endpoints, runtime), layout, endpoints)
                self._wait_until_ready(endpoints)
            except PortTakenError:
                self._abandon(layout)
                # Somebody was faster; a port that we picked ourselves can be picked again.
                if attempt == ATTEMPTS or not self.options.picks_ports:
                    raise
            except BaseException:
                self._abandon(layout)
                raise
            else:
                return

    def stop(self) -> int:
        """Let the requests in flight finish, stop Triton and remove all it left; returns its exit status.

        A negative status is the number of the signal that ended it. Stopping a stopped server is fine.
        """
        self.request_stop()
        returncode = self.wait()
        assert returncode is not None, "waiting without a limit ends with Triton"
        return returncode

    def request_stop(self) -> None:
        """Ask Triton to stop, as `stop` does, without waiting; safe in a signal handler."""
        self._stop_requested = True
        self._command(b"t")

    def kill(self) -> None:
        """End Triton at once, without waiting for requests; safe in a signal handler."""
        self._stop_requested = True
        self._command(b"k")

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until Triton has ended and all it left is removed.

        Returns its exit status, None if it still runs after `timeout_s` seconds.
        """
        if self._guardian is None:
            return 0
        deadline = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        # In short waits: a signal just before a wait, or taken by another thread, does not end it, and its handler runs
        # only after it.
        while not self._exited.wait(min(SIGNAL_DELAY_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return None
        return self._returncode

    @property
    def failure(self) -> HostError | None:
        """Why the server ended unasked: Triton exited, or a model's process died, without which it is of no use."""
        return self._failure

    def log_tail(self) -> list[str]:
        """The last lines of Triton's log, unfiltered."""
        return list(self._lines)

    @property
    def pid(self) -> int:
        """Process number of tritonserver."""
        return _required(self._pid)

    @property
    def instances(self) -> Mapping[str, int]:
        """Instances of each model that was sized for `cores`; empty without that option."""
        return self._sizing.instances

    @property
    def grpc_address(self) -> str:
        """HOST:PORT of the gRPC service, for a client on this machine."""
        return _required(self._endpoints).grpc

    @property
    def http_address(self) -> str | None:
        """URL of the HTTP service, None if it is off."""
        return _required(self._endpoints).http

    @property
    def metrics_address(self) -> str | None:
        """URL of the Prometheus metrics, None if they are off."""
        return _required(self._endpoints).metrics

    @property
    def log_path(self) -> Path | None:
        """File with Triton's whole log, None if none was asked for."""
        return self.options.log_path

    @property
    def runtime_folder(self) -> Path:
        """Folder that Triton runs from; its name is the prefix of Triton's shared memory regions."""
        return _required(self._layout).folder

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, command: list[str], layout: Layout, endpoints: Endpoints) -> None:
        self._lines.clear()
        self._pid = self._returncode = self._failure = None
        self._watching.clear()
        self._exited.clear()
        self._is_followed = False
        grace_s = self.options.exit_timeout_s + UNLOAD_S
        guarded = [sys.executable, "-I", "-S", guardian.__file__, layout.shm_prefix, str(layout.folder), str(grace_s)]
        process = self._guardian = subprocess.Popen(
            [*guarded, *command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**layout.environment, METRICS_URL: endpoints.models_metrics},
            pass_fds=[layout.alive_fd],
            start_new_session=True,
        )
        pump = threading.Thread(target=self._pump_log, args=(process,), name="triton-log", daemon=True)
        pump.start()
        threading.Thread(target=self._follow, args=(process, layout, pump), name="triton-status", daemon=True).start()
        self._is_followed = True

    def _wait_until_ready(self, endpoints: Endpoints) -> None:
        begin = time.monotonic()
        seen = 0
        arguments = self.options.triton_arguments
        tolerant = "--exit-on-error=false" in arguments
        probe = HealthProbe(
            endpoints,
            speaks_grpc=not any(argument.startswith("--grpc-use-ssl") for argument in arguments),
            every_model=not tolerant,
        )
        try:
            while not self._exited.wait(POLL_S):
                elapsed_s = time.monotonic() - begin
                if self._on_wait is not None:
                    self._on_wait(elapsed_s)
                if probe.is_ready():
                    self._command(b"w")
                    # Ready only once the death of a model's process would be noticed.
                    self._watching.wait(WATCH_WAIT_S)
                    _log.info("Triton is ready after %.1f s", elapsed_s)
                    return
                if self._line_count != seen and not tolerant:
                    seen = self._line_count
                    self._raise_if_hopeless()
                if elapsed_s > self.options.startup_timeout_s:
                    raise StartupTimeoutError(
                        f"Triton was not ready after {self.options.startup_timeout_s:g} s: look at its log with "
                        "--log-level verbose"
                    )
        finally:
            probe.close()
        raise explain_failure(self.log_tail()) or TritonExitedError(_required(self._returncode))

    def _raise_if_hopeless(self) -> None:
        """Raise for a model whose process could not even begin: Triton waits for it for ever."""
        tail = self.log_tail()
        if any(STUB_FAILED in line for line in tail):
            raise explain_failure(tail) or TritonExitedError(0)

    def _pump_log(self, process: subprocess.Popen[bytes]) -> None:
        """Take lines from Triton until nobody can write any more."""
        assert process.stderr is not None
        file = self.options.log_path.open("ab", buffering=0) if self.options.log_path else None
        in_usage = False
        with process.stderr as stream:
            buffer = b""
            while chunk := stream.read(65536):
                *lines, buffer = (buffer + chunk).split(b"\n")
                for raw in lines:
                    if file is not None:
                        file.write(raw + b"\n")
                    line = raw.decode(errors="replace").rstrip()
                    # A model that was sized for this machine is reported where it comes from.
                    if self._sizing.repository != self.options.repository:
                        line = line.replace(str(self._sizing.repository), str(self.options.repository))
                    self._lines.append(line)
                    self._line_count += 1
                    # After an unknown option Triton prints four hundred lines of help.
                    in_usage = in_usage or line.startswith("Usage: tritonserver")
                    if not in_usage and (self._has_gpu or not is_harmless_without_gpu(line)):
                        self._on_log(line)
        if file is not None:
            file.close()

    def _follow(self, process: subprocess.Popen[bytes], layout: Layout, pump: threading.Thread) -> None:
        """Take the guardian's word for what happens, and its place if it was killed."""
        assert process.stdout is not None
        returncode: int | None = None
        for line in process.stdout:
            event, _, value = line.decode().strip().partition(" ")
            if event == "started":
                self._pid = int(value)
            elif event == "watching":
                self._watching.set()
            elif event == "lost":
                instance, signal_or_status = value.split()
                self._failure = ModelProcessError(instance, int(signal_or_status))
            elif event == "exited":
                returncode = int(value)
        process.wait()
        if returncode is None:
            _log.warning("the guardian of Triton ended unexpectedly")
            if self._pid is not None:
                guardian.kill_group(self._pid)
            guardian.remove_leftovers(layout.shm_prefix, layout.folder)
            returncode = process.returncode if process.returncode else -9
        pump.join(timeout=2)
        os.close(layout.alive_fd)
        self._returncode = returncode
        if not self._stop_requested:
            self._failure = self._failure or TritonExitedError(returncode)
        self._exited.set()

    def _abandon(self, layout: Layout) -> None:
        if self._guardian is None:
            guardian.remove_leftovers(layout.shm_prefix, layout.folder)
            os.close(layout.alive_fd)
            return
        self._command(b"k")
        if self._is_followed:
            self._exited.wait()
            return
        # Interrupted (Ctrl-C) between the start of the guardian and of the thread that waits for its end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guardian.wait(timeout=ABANDON_S)
        self._guardian.kill()
        self._guardian.wait()
        self._guardian = None
        guardian.remove_leftovers(layout.shm_prefix, layout.folder)
        os.close(layout.alive_fd)

    def _command(self, command: bytes) -> None:
        if self._guardian is None or self._guardian.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ValueError):  # it may have ended: that is what was wanted
            os.write(self._guardian.stdin.fileno(), command)


def _required(value: T | None) -> T:
    if value is None:
        raise HostError("the server has not been started")
    return value
