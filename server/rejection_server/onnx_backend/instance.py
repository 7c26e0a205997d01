"""One loaded model: runs the inputs of several requests as one batch."""

import enum
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rejection_server.onnx_backend import batching, parts, session, tensor_types, validation
from rejection_server.onnx_backend.batching import Array, Arrays, Item
from rejection_server.onnx_backend.config import ModelConfig
from rejection_server.onnx_backend.messages import client_sentence
from rejection_server.onnx_backend.token_ids import INPUT_IDS, TokenIds

ROWS_PER_RUN = "rows_per_run"
"""Parameter of a model: a batch of more rows runs as parts of this many, as many at once as the model has instances.
So a large request, which a single instance gets, uses the cores of the idle ones. Triton's C++ backend ignores it."""


class Cause(enum.Enum):
    """What a failure is due to."""

    MODEL = "the model could not run on these inputs"
    REQUEST = "the request is at fault, whatever the model"
    CANCELLED = "nobody waits for the answer"


@dataclass(frozen=True)
class Failure:
    """Why a request has no outputs."""

    message: str
    """One sentence for the client."""
    cause: Cause = Cause.MODEL


class Instance:
    """An onnxruntime session with the plan by which requests share its calls."""

    def __init__(self, ort_session: Any, config: ModelConfig) -> None:
        """Check `config` against the model of an `onnxruntime.InferenceSession`.

        Raises:
            LoadRefusedError: They do not fit.
        """
        inputs = tensor_types.tensor_infos(ort_session.get_inputs())
        initializers = tensor_types.tensor_infos(ort_session.get_overridable_initializers())
        validation.check_inputs(config, inputs, initializers)
        validation.check_outputs(config, tensor_types.tensor_infos(ort_session.get_outputs()))
        self._session = ort_session
        self._options = session.run_options(config)
        self._plan = batching.make_plan(config, {**inputs, **initializers})
        self._rows_per_run = config.integer(ROWS_PER_RUN) if config.max_batch_size > 0 else 0
        takes_rows_of_ids = config.max_batch_size > 0 and INPUT_IDS in self._plan.ragged
        self._token_ids = TokenIds.of(ort_session.get_modelmeta().custom_metadata_map) if takes_rows_of_ids else None
        self._pool: ThreadPoolExecutor | None = None
        if self._rows_per_run > 0 and config.instance_count > 1:
            self._pool = ThreadPoolExecutor(config.instance_count, "part")
        self.output_names = self._plan.output_names
        self.string_inputs = frozenset(
            name for name, info in {**inputs, **initializers}.items() if info.data_type == "TYPE_STRING"
        )

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, first choice first."""
        return list(self._session.get_providers())

    def infer(self, items: Sequence[Item]) -> list[Arrays | Failure]:
        """Run the items as one batch, without those that are no text.

        If that fails, each is run alone, so that only those fail that fail on their own.

        Returns:
            For each item its outputs in the order of `output_names`, or its failure.
        """
        if self._token_ids is None:
            return self._infer(items)
        faults = self._token_ids.faults([item[INPUT_IDS] for item in items])
        results = iter(self._infer([item for item, fault in zip(items, faults, strict=True) if fault is None]))
        return [next(results) if fault is None else Failure(fault, Cause.REQUEST) for fault in faults]

    def _infer(self, items: Sequence[Item]) -> list[Arrays | Failure]:
        if not items:
            return []
        try:
            if self._pool is not None and sum(map(batching.row_count, items)) > self._rows_per_run:
                return [*self._run_parts(items, self._pool)]
            return [*self._run(items)]
        except Exception as exc:
            # onnxruntime's exceptions have no common type of their own.
            if len(items) == 1:
                return [Failure(client_sentence(str(exc)))]
        return [result for item in items for result in self._infer([item])]

    def _run(self, items: Sequence[Item]) -> list[Arrays]:
        feed = batching.merge(self._plan, items)
        outputs = self._session.run(self.output_names, feed, self._options)
        return batching.split(self._plan, outputs, items)

    def _run_parts(self, items: Sequence[Item], pool: ThreadPoolExecutor) -> list[Arrays]:
        cut = parts.cut(items, self._rows_per_run)
        runs = [pool.submit(self._run, [piece.item for piece in part]) for part in cut]
        wait(runs)  # for all of them, also if one fails: none may still run when the next batch comes
        pieces = [piece for part in cut for piece in part]
        return parts.join(pieces, [outputs for run in runs for outputs in run.result()], len(items))


def load_instance(config: ModelConfig, version_folder: Path, kind: str, device_id: int) -> Instance:
    """Load the model of one version for an instance of `kind` (GPU, CPU, MODEL or AUTO) on `device_id`.

    Raises:
        LoadRefusedError: The model is missing, broken, or not what the configuration says.
    """
    settings = session.read_settings(config)
    file = session.find_model_file(config, version_folder)
    providers = session.execution_providers(config, kind, device_id, offered_providers())
    return Instance(session.create_session(config, settings, file, providers), config)


def offered_providers() -> list[str]:
    """Return the execution providers that the installed onnxruntime was built with."""
    import onnxruntime as ort

    return list(ort.get_available_providers())


def decode_strings(name: str, tensor: Array) -> Array | Failure:
    """Turn Triton's array of bytes into onnxruntime's array of str; both have dtype object."""
    decoded = np.empty(tensor.size, dtype=object)
    for index, element in enumerate(tensor.reshape(-1)):
        try:
            decoded[index] = element.decode() if isinstance(element, bytes) else element
        except UnicodeDecodeError:
            return Failure(f"input '{name}': element {index} is not valid UTF-8", Cause.REQUEST)
    return decoded.reshape(tensor.shape)
