"""From one version of a classifier to another, in a Triton that goes on answering.

1. The new version is loaded beside the old one; Triton warms it up. Calls still go to the old one, by its number.
2. It answers the texts whose answers by the original were recorded when it was prepared.
3. The chain `scoring`, and the public model, are loaded anew with the new number. Triton exchanges each in one step: a
   request that has begun keeps the models that it found, the next one finds the new ones. From the one to the other it
   takes milliseconds, in which an answer of the new version can still bear the old number.
4. The old version is unloaded once its last request is answered. It stays on the disk, to return to.

Whatever fails before step 3 is done leaves the old version answering.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rejection_server.commands import command
from rejection_server.guard.memory import resident_bytes
from rejection_server.host.errors import ExchangeError
from rejection_server.host.gpu import compare_served
from rejection_server.limits import available_bytes
from rejection_server.names import Names
from rejection_server.prepare.checksum import digest
from rejection_server.prepare.recorded import GATE
from rejection_server.reload.repository import ServedRepository
from rejection_server.wording import one_line

__all__ = ["Exchange"]

SAME = ("labels", "model_max_length", "model_min_length", "activation", "device")
"""What Triton keeps once for all versions, by its name in `model.json`."""
AT_ONCE = 2
"""Texts that a new version is compared on at a time: callers are to have the cores."""
SETTLE_S = 1.0
"""After this time every request that was under way when a version took over has got hold of the models it needs."""
UNLOAD_S = 120.0
"""How long the last requests of an old version are waited for."""
POLL_S = 0.1
ASK_S = 10.0

Say = Callable[[str], None]


class Exchange:
    """The versions that a running Triton, started by this process, answers with; one exchange at a time.

    Args:
        served: the repository that it was started with.
        address: of Triton's own gRPC service.
        metadata: what opens its administration.
        changing: entered while processes of models may come and go.
        load_timeout_s: how long loading a model may take.
    """

    def __init__(
        self,
        served: ServedRepository,
        address: str,
        metadata: Mapping[str, str],
        *,
        changing: Callable[[], contextlib.AbstractContextManager[None]],
        load_timeout_s: float,
    ) -> None:
        self._served = served
        self._address = address
        self._metadata = dict(metadata)
        self._changing = changing
        self._load_timeout_s = load_timeout_s
        self._lock = threading.Lock()
        self._history = {names: [served.versions(names)[-1]] for names in served.classifiers}
        """The versions that answered, of each classifier; the last one answers now."""
        self._loaded = {names: self._identity(names, self._history[names][-1]) for names in served.classifiers}
        """What tells the files that they were loaded from from others in their place."""

    def status(self) -> list[dict[str, Any]]:
        """Of each version of each classifier: `model`, `version`, `answers`, and what its preparation says of it."""
        return [
            {
                "model": names.public,
                "version": version,
                "answers": version == history[-1],
                **{name: self._served.facts(names, version).get(name) for name in ("name", "precision", "sha256")},
            }
            for names, history in self._history.items()
            for version in self._served.versions(names)
        ]

    def reload(self, model: str | None, version: int | None, say: Say) -> str:
        """Have a version, or the newest one, of a model take over; returns what came of it.

        Raises ExchangeError, with the version before still answering.
        """
        with self._alone():
            names = self._named(model)
            found = self._served.versions(names)
            new = (found or [0])[-1] if version is None else version
            if new not in found:
                raise ExchangeError(
                    f"version {new} of {names.public} is not in the repository, which has "
                    f"{', '.join(map(str, found)) or 'none'}: add it with {command('prepare')} --version {new}"
                )
            if new == self._history[names][-1]:
                add = f", and there is no newer one: add it with {command('prepare')} --version"
                newer = add if version is None else ""
                raise ExchangeError(f"version {new} of {names.public} is the one that answers{newer}")
            self._take_over(names, new, say)
            self._history[names].append(new)
            return f"version {new} of {names.public} answers"

    def rollback(self, model: str | None, say: Say) -> str:
        """Have the version take over again that answered before the last `reload`; else as `reload`."""
        with self._alone():
            names = self._named(model)
            history = self._history[names]
            if len(history) < 2:
                raise ExchangeError(
                    f"there is no version of {names.public} to return to from version {history[-1]}: reload takes a "
                    "--version"
                )
            if history[-2] not in self._served.versions(names):
                raise ExchangeError(f"version {history[-2]} of {names.public} is not in the repository any more")
            self._take_over(names, history[-2], say)
            history.pop()
            return f"version {history[-1]} of {names.public} answers again"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise ExchangeError("another version is taking over at the moment: wait until it answers")
        try:
            yield
        finally:
            self._lock.release()

    def _named(self, model: str | None) -> Names:
        served = {names.public: names for names in self._history}
        if model is None and len(served) > 1:
            raise ExchangeError(f"the server has {', '.join(served)}: say which one with --model")
        if model is None:
            return next(iter(served.values()))
        if model not in served:
            raise ExchangeError(f"the server has no model {model} with versions, it has {', '.join(served)}")
        return served[model]

    def _take_over(self, names: Names, new: int, say: Say) -> None:
        old = self._history[names][-1]
        self._check(names, old, new)
        with self._changing(), triton.InferenceServerClient(self._address) as client:
            try:
                say(f"loading version {new} of {names.public}; version {old} goes on answering")
                self._load(client, self._served.write(names, old, new))
                self._compare(names, new, say)
                self._load(client, self._served.write(names, new, old))
            except Exception as exc:  # whatever it is, the version before goes on
                self._settle(client, names, old)
                raise ExchangeError(f"version {old} of {names.public} goes on answering: {_reason(exc)}") from exc
            self._loaded[names] = self._identity(names, new)
            say(f"version {new} took over; unloading version {old}")
            time.sleep(SETTLE_S)
            self._settle(client, names, new)

    def _check(self, names: Names, old: int, new: int) -> None:
        """Raise ExchangeError for what is wrong with a version before anything is loaded."""
        if self._identity(names, old) != self._loaded[names]:
            raise ExchangeError(
                f"the repository was made anew since {names.public} was loaded from it, so versions cannot stand side "
                "by side: start the server again"
            )
        before, facts = self._served.facts(names, old), self._served.facts(names, new)
        folder = self._served.version_folder(names, new)
        for name in SAME:
            if name in before and name in facts and before[name] != facts[name]:
                raise ExchangeError(
                    f"version {new} of {names.public} has another {name} than version {old}, and a server has one for "
                    "all: serve it from a repository of its own"
                )
        try:
            found = digest(folder / "model.onnx")
        except OSError as exc:
            raise ExchangeError(f"version {new} of {names.public} cannot be read: {exc.strerror}, {folder}") from exc
        if found != facts.get("sha256", found):
            raise ExchangeError(
                f"version {new} of {names.public} is damaged, {folder}/model.onnx is not what was prepared: prepare it "
                "again"
            )
        self._check_memory(names, old, new)

    def _check_memory(self, names: Names, old: int, new: int) -> None:
        """Raise ExchangeError if two versions do not fit; the new one is taken to need what the old one has."""
        mine = re.compile(rf"{re.escape(names.classifier)}_\d+_\d+")
        taken = sum(size for name, size in resident_bytes(os.getpid()).items() if mine.fullmatch(name))
        sizes = [(self._served.version_folder(names, one) / "model.onnx").stat().st_size for one in (old, new)]
        needed = int(taken * max(1.0, sizes[1] / max(1, sizes[0])))
        available = available_bytes()
        if available is not None and needed > available:
            raise ExchangeError(
                f"version {new} of {names.public} takes about {needed >> 20} MiB beside version {old}, and "
                f"{available >> 20} MiB are free: start the server again with it"
            )

    def _identity(self, names: Names, version: int) -> tuple[int, int]:
        """What tells a version's file from another in its place."""
        try:
            found = (self._served.version_folder(names, version) / "model.onnx").stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    def _load(self, client: triton.InferenceServerClient, models: Sequence[str]) -> None:
        """Have Triton look at the models' configurations again; versions that have not changed are not loaded again."""
        for model in models:
            client.load_model(model, headers=self._metadata, client_timeout=self._load_timeout_s)

    def _compare(self, names: Names, new: int, say: Say) -> None:
        folder = self._served.version_folder(names, new)
        if not (folder / GATE).is_file():
            say(f"version {new} has no {GATE} beside it, so its answers are not compared with the original's")
            return
        say(f"comparing version {new} with the original's answers")
        try:
            missed = compare_served(folder, self._address, names.classifier, number=str(new), at_once=AT_ONCE)
        except (ValueError, KeyError) as exc:
            raise ExchangeError(f"version {new} cannot be compared with the original ({one_line(exc, 200)})") from exc
        if missed:
            raise ExchangeError(f"version {new} does not answer like the original: {'; '.join(missed)}")

    def _settle(self, client: triton.InferenceServerClient, names: Names, version: int) -> None:
        """Have this version answer and none be loaded beside it, and wait until none is."""
        with contextlib.suppress(InferenceServerException, OSError):  # the server may have ended
            changed = self._served.write(names, version)
            self._load(client, changed)
            until = time.monotonic() + UNLOAD_S
            while self._loaded_versions(client, changed) > len(changed) and time.monotonic() < until:
                time.sleep(POLL_S)

    def _loaded_versions(self, client: triton.InferenceServerClient, models: Sequence[str]) -> int:
        """How many versions of these models there are, those that are on their way out included."""
        index = client.get_model_repository_index(headers=self._metadata, client_timeout=ASK_S)
        return sum(m.name in models and m.state in ("READY", "LOADING", "UNLOADING") for m in index.models)


def _reason(exc: Exception) -> str:
    if isinstance(exc, InferenceServerException):
        # "load failed for model 'classifier': version 3 is at UNAVAILABLE state: Internal: ..."
        return one_line(exc.message().rpartition(" state: ")[2], 400).rstrip(" .;")
    return str(exc)
