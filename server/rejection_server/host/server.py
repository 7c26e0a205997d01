"""Start, watch and stop one embedded Triton."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rejection_server.guard.settings import ADMIN_KEY
from rejection_server.host.access import check_access
from rejection_server.host.cuda import Gpu, find_gpus
from rejection_server.host.engine import EngineMaker, linked_with_plans, order_of
from rejection_server.host.errors import HostError, OptionError, PortTakenError, StartupTimeoutError, TritonExitedError
from rejection_server.host.gpu import check_device, check_gpus, check_served
from rejection_server.host.guard_link import guard_settings
from rejection_server.host.health import HealthProbe
from rejection_server.host.layout import lay_out
from rejection_server.host.locate import Triton, find_triton
from rejection_server.host.onnx_library import too_old
from rejection_server.host.options import (
    Endpoints,
    Runtime,
    ServeOptions,
    check_repository,
    choose_endpoints,
    triton_command,
)
from rejection_server.host.processes import Processes
from rejection_server.host.sizing import Sizing, sized_repository
from rejection_server.host.surroundings import check_log
from rejection_server.host.triton_log import STUB_FAILED, explain_failure, is_harmless
from rejection_server.host.watchdog import Watchdog
from rejection_server.prepared_for import uses_tensorrt
from rejection_server.reload.control import Control
from rejection_server.reload.exchange import Exchange
from rejection_server.reload.repository import ServedRepository

__all__ = ["Server"]

POLL_S = 0.05
UNLOAD_S = 15
"""How long unloading the models may take, after the requests in flight."""
ATTEMPTS = 3
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))

_log = logging.getLogger(__name__)
_guard_log = logging.getLogger("rejection_server.guard")
_triton_log = logging.getLogger("rejection_server.triton")

T = TypeVar("T")


class Server:
    """One embedded Triton with its model repository, behind a guard unless told otherwise.

    As a context manager it is ready inside the block and gone after it:

        with Server(ServeOptions(repository=Path("model_repository"), grpc_port=0)) as server:
            print(server.grpc_address)

    Args:
        options: what to serve, and where.
        on_log: called, from another thread, with each line of Triton's log, save those that only say that there is no
            GPU; without it the lines go to the logger `rejection_server.triton`.
        on_event: called, from another thread, with each event that the guard tells (`rejection_server.guard.__main__`
            lists them), and with `exchanged` when another version of a model answers; without it they go to the logger
            `rejection_server.guard`.
        on_wait: called about twenty times a second while the models load, with the seconds since the start.
        on_step: called with a line for each step of what takes minutes before that: the building of an engine.
    """

    def __init__(
        self,
        options: ServeOptions,
        *,
        on_log: Callable[[str], None] | None = None,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        on_wait: Callable[[float], None] | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options
        self._on_log = on_log or _triton_log.info
        self._on_event = on_event or (lambda event: _guard_log.info("%s", event))
        self._on_wait = on_wait
        self._has_gpu = any(device.exists() for device in GPU_DEVICES)
        self._is_usage = False
        self._engines = EngineMaker(options.engine_cache, on_step or _log.info)
        self._gpus: tuple[Gpu, ...] = ()
        self._plans: Mapping[Path, Mapping[tuple[int, int], Path]] = {}
        """TensorRT's engines by the classifier's version that they were built of, and by compute capability."""
        self._admin_key: str | None = None
        self._endpoints: Endpoints | None = None
        self._sizing = Sizing(options.repository, {})
        self._served: ServedRepository | None = None
        """What Triton is given in place of the repository, where versions can be exchanged."""
        self._control: Control | None = None
        self._folder: Path | None = None
        self._own_backends: Path | None = None
        self._processes: Processes | None = None
        self._watchdog: Watchdog | None = None

    def start(self) -> None:
        """Start Triton and wait until it, all its models and the guard are ready.

        Raises a HostError, and leaves nothing behind, if that does not happen within `startup_timeout_s`.
        """
        triton = find_triton()
        self._own_backends = triton.backends
        check_repository(self.options.repository)
        self._admin_key = check_access(self.options)
        check_log(self.options.log_path)
        for_tensorrt = uses_tensorrt(self.options.repository)
        check_device(self.options.repository, self.options.device)
        self._gpus = find_gpus() if self.options.device == "gpu" else ()
        if triton.backends is None and not for_tensorrt:
            check_gpus(self.options.repository, self._gpus)
        if for_tensorrt:
            self._plans = self._made_plans(triton, for_tensorrt)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._start_once(triton)
            except PortTakenError:
                # Somebody was faster; a port that we picked ourselves can be picked again.
                if attempt == ATTEMPTS or not self.options.picks_ports:
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
        self._engines.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._processes is not None:
            self._processes.request_stop()

    def kill(self) -> None:
        """End Triton at once, without waiting for requests; safe in a signal handler."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._processes is not None:
            self._processes.kill()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until Triton has ended and all it left is removed.

        Returns its exit status, None if it still runs after `timeout_s` seconds.
        """
        if self._processes is None:
            return 0
        has_ended = self._processes.wait(float("inf") if timeout_s is None else timeout_s)
        if has_ended and self._control is not None:
            self._control.close()
            self._control = None
        return self._processes.returncode if has_ended else None

    @property
    def failure(self) -> HostError | None:
        """Why the server ended unasked: Triton exited, or the guard or a model's process died or stood still."""
        processes = self._processes
        if processes is None or not processes.ended_unasked:
            return None
        return processes.failure or TritonExitedError(_required(processes.returncode))

    def log_tail(self) -> list[str]:
        """The last lines of Triton's log, unfiltered."""
        return [self._as_given(line) for line in self._processes.log] if self._processes is not None else []

    @property
    def pid(self) -> int:
        """Process number of tritonserver."""
        return _required(_required(self._processes).triton_pid)

    @property
    def instances(self) -> Mapping[str, int]:
        """Instances of each model that was sized for `cores`; empty without that option."""
        return self._sizing.instances

    @property
    def shares(self) -> Mapping[str, int]:
        """Cores that each classifier was sized for, by its public name; empty without `cores`."""
        return self._sizing.shares

    @property
    def gpus(self) -> tuple[str, ...]:
        """Names of the GPUs that are served on; empty where it is the processor."""
        return tuple(gpu.name for gpu in self._gpus)

    @property
    def grpc_address(self) -> str:
        """HOST:PORT of the gRPC service, the guard's if there is one, for a client on this machine."""
        return _required(self._endpoints).grpc

    @property
    def triton_address(self) -> str:
        """Triton's own gRPC service: the socket behind the guard (unix:PATH), or without a guard `grpc_address`."""
        return _required(self._endpoints).triton

    @property
    def admin_metadata(self) -> dict[str, str]:
        """Metadata that opens administration at `triton_address`."""
        return {ADMIN_KEY: _required(self._admin_key)}

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers of tritonserver and, if there is one, of the guard: with their children all that serves."""
        guard = _required(self._processes).guard_pid
        return (self.pid,) if guard is None else (self.pid, guard)

    @property
    def bound(self) -> Mapping[str, str]:
        """Each service for callers that is on (gRPC, HTTP, metrics), with the address that it is bound to."""
        return _required(self._endpoints).bound

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
        return _required(self._folder)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start_once(self, triton: Triton) -> None:
        endpoints = choose_endpoints(self.options)
        layout = lay_out(triton)
        self._folder = layout.folder
        if self.options.guard:
            endpoints = replace(endpoints, sockets=layout.folder)
        self._endpoints = endpoints
        processes = Processes(layout, on_line=self._take_line, on_event=self._on_event, log_path=self.options.log_path)
        try:
            repository = self.options.repository
            for number, (version, plans) in enumerate(self._plans.items()):
                repository = linked_with_plans(repository, version, plans, layout.folder / f"engines-{number}")
            self._sizing = Sizing(repository, {})
            if self.options.cores is not None:
                folder = layout.folder / "repository"
                self._sizing = sized_repository(
                    repository, self.options.cores, folder, self.options.weights, gpus=len(self._gpus)
                )
            self._served = self._versioned(layout.folder / "served")
            runtime = Runtime(
                repository=self._repository,
                tritonserver=triton.tritonserver,
                backends=layout.backends,
                caches=triton.caches,
                shm_prefix=layout.shm_prefix,
                admin_key=_required(self._admin_key),
                has_gpu=self._has_gpu,
                exchanges=self._served is not None,
            )
            command = triton_command(self.options, endpoints, runtime)
            self._is_usage = False
            self._processes = processes
            processes.start(
                command,
                layout.environment,
                stop_grace_s=self.options.exit_timeout_s + UNLOAD_S,
                guarded=self.options.guard,
            )
            self._wait_until_ready(endpoints, processes)
        except BaseException:
            processes.abandon()
            raise

    def _made_plans(self, triton: Triton, versions: Iterable[Path]) -> Mapping[Path, Mapping[tuple[int, int], Path]]:
        """The engines of the repository's graphs, built if need be."""
        if self.options.changes_models or self.options.model_config_name:
            raise OptionError(
                "a repository for TensorRT goes with neither --model-control-mode nor --model-config-name: its engine "
                "is built before Triton starts"
            )
        return self._engines.engines(triton, self._gpus, {version: order_of(version) for version in versions})

    def _wait_until_ready(self, endpoints: Endpoints, processes: Processes) -> None:
        arguments = self.options.triton_arguments
        tolerant = "--exit-on-error=false" in arguments
        speaks_grpc = not any(argument.startswith("--grpc-use-ssl") for argument in arguments)
        begin = time.monotonic()
        seen = 0
        is_closed = processes.guard is not None  # the guard does not listen before Triton is ready
        probe = HealthProbe(
            endpoints.triton,
            endpoints.listeners,
            speaks_grpc=speaks_grpc,
            every_model=not tolerant,
            metadata=self.admin_metadata,
        )
        try:
            while not processes.wait(POLL_S):
                elapsed_s = time.monotonic() - begin
                if self._on_wait is not None:
                    self._on_wait(elapsed_s)
                if probe.is_ready():
                    if speaks_grpc and is_closed == self.options.guard:  # it is Triton itself, and not the guard
                        self._check_answers(endpoints.triton)
                    if not is_closed:
                        break
                    is_closed = False
                    probe.close()
                    _required(processes.guard).begin(
                        guard_settings(self.options, endpoints, self._repository, _required(self._admin_key))
                    )
                    probe = HealthProbe(
                        endpoints.grpc,
                        [(endpoints.reachable_address, endpoints.grpc_port)],
                        speaks_grpc=self.options.tls_cert is None,
                        every_model=not tolerant,
                    )
                if processes.line_count != seen and not tolerant:
                    seen = processes.line_count
                    self._raise_if_hopeless()
                if elapsed_s > self.options.startup_timeout_s:
                    raise StartupTimeoutError(
                        f"Triton was not ready after {self.options.startup_timeout_s:g} s: look at its log with "
                        "--log-level verbose"
                    )
            else:
                raise (self._explained() or processes.failure or TritonExitedError(_required(processes.returncode)))
        finally:
            probe.close()
        # Ready only once the death of a model's process would be noticed.
        processes.watch(unloads=self._admits_change)
        self._watch(processes, endpoints.triton if speaks_grpc else None, processes.stubs)
        if self._served is not None and speaks_grpc:
            exchange = Exchange(
                self._served,
                endpoints.triton,
                self.admin_metadata,
                changing=lambda: self._changing(processes, endpoints.triton),
                load_timeout_s=self.options.startup_timeout_s,
            )
            self._control = Control(
                self.runtime_folder,
                exchange,
                address=endpoints.grpc,
                key_file=self.options.admin_key_file,
                on_event=self._on_event,
            )
        _log.info("Triton is ready after %.1f s", elapsed_s)

    def _versioned(self, folder: Path) -> ServedRepository | None:
        """The repository in a form whose versions can be exchanged; None where it has no prepared classifier.

        None, too, where TensorRT runs one: the engine of another version would have to be built first.
        """
        if self.options.changes_models or self._plans:
            return None
        served = ServedRepository(
            self.options.repository, self._sizing.repository, folder, self.options.model_config_name
        )
        return served if served.classifiers else None

    @property
    def _repository(self) -> Path:
        """The folder that Triton is given."""
        return self._sizing.repository if self._served is None else self._served.folder

    @property
    def _admits_change(self) -> bool:
        """Whether callers may have Triton load and unload models."""
        return self.options.changes_models or (self._served is not None and self.options.admin_key_file is not None)

    @contextlib.contextmanager
    def _changing(self, processes: Processes, address: str) -> Iterator[None]:
        """While processes of models come and go: none of them is held to anything."""
        processes.let_change()
        self._watch(processes, address, {})
        try:
            yield
        finally:
            processes.watch(unloads=self._admits_change)
            self._watch(processes, address, processes.stubs)

    def _watch(self, processes: Processes, address: str | None, stubs: Mapping[int, str]) -> None:
        """Begin to look for what runs and does nothing, in place of the watchdog that did so until now."""
        if self.options.silence_s is None or processes.is_stopping:
            return
        before, self._watchdog = (
            self._watchdog,
            Watchdog(
                self.options.silence_s,
                address=address,
                guard=processes.guard,
                stubs=stubs,
                on_silence=processes.fail,
            ),
        )
        if before is not None:
            before.stop()
        self._watchdog.start()

    def _raise_if_hopeless(self) -> None:
        """Raise for a model whose process could not even begin: Triton waits for it for ever."""
        if any(STUB_FAILED in line for line in self.log_tail()):
            raise self._explained() or TritonExitedError(0)

    def _check_answers(self, address: str) -> None:
        """What `check_gpus` leaves to a Triton with an onnxruntime of its own."""
        if self.options.device == "gpu" and self._own_backends is not None:
            check_served(self.options.repository, address)

    def _explained(self) -> HostError | None:
        """Why Triton did not start, as far as its log tells."""
        return too_old(explain_failure(self.log_tail()), self._own_backends)

    def _take_line(self, line: str) -> None:
        line = self._as_given(line)
        # After an unknown option Triton prints four hundred lines of help.
        self._is_usage = self._is_usage or line.startswith("Usage: tritonserver")
        if not self._is_usage and not is_harmless(line, has_gpu=self._has_gpu):
            self._on_log(line)

    def _as_given(self, line: str) -> str:
        """A line in which a model that was sized for this machine is reported where it comes from."""
        for folder in {self._sizing.repository, self._repository} - {self.options.repository}:
            line = line.replace(str(folder), str(self.options.repository))
        return line


def _required(value: T | None) -> T:
    if value is None:
        raise HostError("the server has not been started")
    return value
