"""The guard as the launcher sees it: what it is told, and the pipes to it, which lead past the guardian."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.guard.answers import PROBABILITIES
from rejection_server.guard.settings import GuardSettings, ModelLimits
from rejection_server.host.errors import GuardError, PortTakenError
from rejection_server.host.options import Endpoints, ServeOptions
from rejection_server.host.sizing import MAX_PENDING

__all__ = ["GuardLink", "guard_settings"]

MAX_LENGTH, TOKENS, BYTES_A_TOKEN = "model_max_length", 512, 4
"""Parameter of the public model: tokens that it reads of a text; what holds without it; and what a token takes."""
PROBLEM_TYPE, ONE_LABEL = "problem_type", "single_label_classification"
"""Parameter of the public model, and its value where each text has one label."""
UNBOUNDED = 1 << 30
LEAST_UPSTREAM = 16
"""Requests that Triton has at a time, at least."""
START_S = 30.0
IN_USE = "in use"

_log = logging.getLogger(__name__)


def guard_settings(options: ServeOptions, endpoints: Endpoints, repository: Path, admin_key: str) -> GuardSettings:
    """What the guard is to be told in front of a Triton that serves `repository`, with this key of administration.

    Public are the models that are no step of another; each has bounds of its own, by the models that it is made of.
    Triton may have twice what all instances of a model together take at a time, so that the next batch is there while
    it runs one. What is more waits in the guard, where it is dropped when its caller leaves: Triton would run it for
    nobody.
    """
    configs = _read_configs(repository, options.model_config_name)
    steps = {step.model_name for config in configs.values() for step in config.ensemble_scheduling.step}
    limits = {name: _limits(name, configs) for name in sorted(configs.keys() - steps)}
    return GuardSettings(
        upstream=endpoints.triton,
        public_models=tuple(limits),
        models=limits,
        labels=_labels(repository, configs),
        processes=options.guards,
        measures_parent=True,
        host=endpoints.address,
        port=endpoints.grpc_port,
        max_requests=min(UNBOUNDED, sum(each.max_requests for each in limits.values())),
        drain_timeout_s=float(options.exit_timeout_s),
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tls_client_ca=options.tls_client_ca,
        token_file=options.token_file,
        admin_key_file=options.admin_key_file,
        upstream_admin_key=admin_key,
        metrics_port=endpoints.metrics_port if endpoints.publishes_metrics else None,
        metrics_host=endpoints.address,
        upstream_metrics=endpoints.models_metrics,
    )


def _limits(name: str, configs: Mapping[str, Any]) -> ModelLimits:
    """Bounds of a public model, from its configuration and those of the models that it is made of."""
    made_of = {name}
    waiting = [name]
    while waiting:
        steps = {step.model_name for step in configs[waiting.pop()].ensemble_scheduling.step} & configs.keys() - made_of
        made_of |= steps
        waiting += steps
    parts = [configs[part] for part in made_of]
    pending = [int(part.parameters[MAX_PENDING].string_value) for part in parts if MAX_PENDING in part.parameters]
    most = min(pending, default=GuardSettings.max_requests) or UNBOUNDED
    parameters = configs[name].parameters
    given = parameters[MAX_LENGTH].string_value if MAX_LENGTH in parameters else ""
    return ModelLimits(
        max_requests=most,
        max_upstream_requests=min(most, max(LEAST_UPSTREAM, 2 * max(map(_room, parts)))),
        max_upstream_long=_long(parts) or most,
        read_bytes=BYTES_A_TOKEN * (int(given) if given.isdecimal() else TOKENS),
    )


def _read_configs(repository: Path, config_name: str | None) -> dict[str, Any]:
    """Configuration by model; that of one without, or with a broken one, is empty: Triton tells what is wrong."""
    configs = {}
    for folder in repository.iterdir():
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        named = folder / "configs" / f"{config_name}.pbtxt"
        path = named if config_name is not None and named.is_file() else folder / "config.pbtxt"
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except (OSError, ValueError, text_format.ParseError):
            config = model_config_pb2.ModelConfig()
        configs[folder.name] = config
    return configs


def _labels(repository: Path, configs: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names of the labels of the models that give each text one of them."""
    labels = {}
    for name, config in configs.items():
        kind = config.parameters[PROBLEM_TYPE].string_value if PROBLEM_TYPE in config.parameters else ONE_LABEL
        for output in config.output:
            if output.name == PROBABILITIES and output.label_filename and kind == ONE_LABEL:
                with contextlib.suppress(OSError, ValueError):  # Triton tells what is wrong with it
                    lines = (repository / name / output.label_filename).read_text(encoding="utf-8").splitlines()
                    labels[name] = tuple(line for line in lines if line)
    return labels


def _long(configs: Iterable[Any]) -> int:
    """Long requests at a time that leave an instance of the classifier to others; 0, no bound, on a GPU."""
    groups = [list(config.instance_group) for config in configs]
    if any(group.kind not in (group.KIND_CPU, group.KIND_AUTO) for model in groups for group in model):
        return 0
    return max([2, *(sum(group.count or 1 for group in model) for model in groups)]) - 1


def _room(config: Any) -> int:
    """Requests of one row that all instances of a model take at a time."""
    batch = 1
    if config.HasField("dynamic_batching"):
        batch = max([*config.dynamic_batching.preferred_batch_size, 0]) or config.max_batch_size or 1
    return batch * sum((group.count or 1) * (len(group.gpus) or 1) for group in config.instance_group)


class GuardLink:
    """Pipes to a guard that the guardian starts; close it when the guard is gone.

    Args:
        on_event: called, from another thread, with each event that the guard tells.
    """

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        input_fd, self._commands = os.pipe()
        self._output, output_fd = os.pipe()
        self.child_fds: tuple[int, ...] = (input_fd, output_fd)
        """What the guard's standard input and output are to be, until it has them."""
        self._begun: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self.heard_at = 0.0
        """When it last said something, by the monotonic clock."""

    def given(self) -> None:
        """Let go of the guard's ends of the pipes, so that they end with it, and listen to it."""
        for descriptor in self.child_fds:
            os.close(descriptor)
        self.child_fds = ()
        threading.Thread(target=self._listen, name="guard-status", daemon=True).start()

    def begin(self, settings: GuardSettings) -> None:
        """Let the guard listen; returns once it does. Raises PortTakenError, GuardError."""
        self._write(settings.to_json())
        try:
            message = self._begun.get(timeout=START_S)
        except queue.Empty:
            raise GuardError(
                f"the guard did not begin to listen within {START_S:g} s: start the server again"
            ) from None
        if "port" in message:
            return
        reason = message.get("error", "it ended")
        if IN_USE in reason:
            raise PortTakenError(
                f"port {settings.port} of {settings.host}, wanted for gRPC, or the one for metrics is already in use: "
                "choose another with --grpc-port or --metrics-port (0 takes a free one), or stop the program there"
            )
        raise GuardError(f"the guard cannot listen on {settings.host}, port {settings.port}: {reason}")

    def ask(self) -> None:
        """Ask for a sign of life, which `heard_at` will tell."""
        self._write("")

    def close(self) -> None:
        """Let go of the guard, which ends by that if it still runs."""
        with self._lock:
            commands, self._commands = self._commands, -1
        if commands >= 0:
            os.close(commands)
        if self.child_fds:  # nobody ever had them
            for descriptor in (*self.child_fds, self._output):
                os.close(descriptor)
            self.child_fds = ()

    def _write(self, line: str) -> None:
        with self._lock:
            if self._commands < 0:
                return
            try:
                os.write(self._commands, f"{line}\n".encode())
            except BrokenPipeError:  # it ended, which the guardian tells
                return

    def _listen(self) -> None:
        with os.fdopen(self._output, encoding="utf-8") as lines:
            for line in lines:
                self.heard_at = time.monotonic()
                try:
                    message = json.loads(line)
                except ValueError:
                    _log.warning("the guard said %r", line)
                    continue
                if "port" in message or "error" in message:
                    self._begun.put(message)
                elif "event" in message:
                    try:
                        self._on_event(message)
                    except Exception:  # not a reason to listen no more, by which the guard would seem dead
                        _log.exception("an event of the guard was not taken")
        self._begun.put({})
