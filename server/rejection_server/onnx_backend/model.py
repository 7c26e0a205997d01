"""The Triton adapter: what the Python backend loads as `BACKENDS/onnxruntime/model.py`."""

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from rejection_server.onnx_backend import autocomplete
from rejection_server.onnx_backend.batching import Arrays, Item
from rejection_server.onnx_backend.config import ModelConfig, parse_config
from rejection_server.onnx_backend.instance import Cause, Failure, Instance, decode_strings, load_instance
from rejection_server.onnx_backend.refusal import UNSUPPORTED, LoadRefusedError, frameless
from rejection_server.onnx_backend.session import create_session, find_model_file, read_settings
from rejection_server.onnx_backend.tensor_types import tensor_infos


class _TritonLog(logging.Handler):
    """Passes the package's log records on to Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        write = pb_utils.Logger.log_error if record.levelno >= logging.ERROR else pb_utils.Logger.log_warn
        write(self.format(record))


_log = logging.getLogger("rejection_server.onnx_backend")
_log.addHandler(_TritonLog(logging.WARNING))

_CANCELLED = Failure("the request was cancelled", Cause.CANCELLED)
_WORTH_ASKING_S = 0.02
"""After a batch that ran for less nobody is asked whether callers are gone: no more than the time of one such run could
be saved, and the questions, 30 microseconds each, took 5 to 8% of the time of short texts. Their own time does not
count, or many single requests would go on being asked for no other reason."""
_NICE = 5
"""Computing yields to receiving, tokenising, refusing and answering, which so stay quick under full load. On 2 cores: 4
to 8% more short texts, and at three times the load that can be carried the slowest hundredth of refusals in half the
time. It counts only against processes of the same control group or session."""


def _auto_complete_config(model_config: Any) -> Any:
    raw = model_config.as_dict()
    config = parse_config(raw)
    settings = read_settings(config)
    if autocomplete.is_complete(raw):
        return model_config
    file = find_model_file(config, _version_folder(config))
    # Names, types and shapes do not depend on the device.
    session = create_session(config, settings, file, [("CPUExecutionProvider", {})])
    inputs, outputs = tensor_infos(session.get_inputs()), tensor_infos(session.get_outputs())
    for warning in autocomplete.complete(raw, inputs, outputs):
        pb_utils.Logger.log_warn(warning)
    return model_config


def _version_folder(config: ModelConfig) -> Path:
    # Auto-completion gets no path from Triton, but the Python backend knows where the model's file should be.
    folder = Path(pb_utils.get_model_dir())
    depth = config.default_model_filename.count("/")
    return folder.parents[depth - 1] if depth else folder


def _refuse_string_outputs(config: ModelConfig) -> None:
    """Refuse what would leave the server empty: Triton 2.51's Python backend cannot send strings made by numpy 2."""
    for output in config.outputs:
        if output.data_type == "TYPE_STRING" and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
            raise LoadRefusedError(
                f"unable to load model '{config.name}', output '{output.name}' of TYPE_STRING needs numpy 1 on the "
                f"embedded host but numpy {np.__version__} is installed, "
                "use NVIDIA's image (docker/Dockerfile.triton)",
                UNSUPPORTED,
            )


class TritonPythonModel:
    """One instance of one model, as the Python backend drives it."""

    auto_complete_config = staticmethod(frameless(_auto_complete_config))

    def __init__(self) -> None:
        """Make the instance; Triton then calls `initialize` with the model's configuration."""
        self.initialize = frameless(self._initialize)
        self._instance: Instance
        self._last_s = 0.0
        self._codes = {
            Cause.MODEL: pb_utils.TritonError.INTERNAL,
            Cause.REQUEST: pb_utils.TritonError.INVALID_ARG,
            Cause.CANCELLED: pb_utils.TritonError.CANCELLED,
        }

    def _initialize(self, args: dict[str, str]) -> None:
        config = parse_config(json.loads(args["model_config"]))
        _refuse_string_outputs(config)
        version_folder = Path(args["model_repository"]) / args["model_version"]
        device_id = int(args["model_instance_device_id"])
        self._instance = load_instance(config, version_folder, args["model_instance_kind"], device_id)
        providers = ", ".join(self._instance.providers)
        os.nice(_NICE)
        pb_utils.Logger.log_info(f"Created session for instance: {args['model_instance_name']} ({providers})")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch; a request that fails gets an error of its own."""
        try:
            return self._answer(requests)
        except Exception as exc:
            # A defect of this backend; left alone, the Python backend would send its traceback to the clients.
            _log.exception("unexpected error while running a batch")
            failure = Failure(f"unexpected {type(exc).__name__}, see the server's log", Cause.MODEL)
            return [self._response(request, failure) for request in requests]

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        prepared = [self._item(request) for request in requests]
        begin = time.monotonic()
        results = iter(self._instance.infer([item for item in prepared if not isinstance(item, Failure)]))
        self._last_s = time.monotonic() - begin
        return [
            self._response(request, item if isinstance(item, Failure) else next(results))
            for request, item in zip(requests, prepared, strict=True)
        ]

    def _item(self, request: Any) -> Item | Failure:
        # Triton made this batch while the last one ran, and from then on did not look whether callers are gone.
        if self._last_s > _WORTH_ASKING_S and request.is_cancelled():
            return _CANCELLED
        item = {}
        for tensor in request.inputs():
            name, array = tensor.name(), tensor.as_numpy()
            if name in self._instance.string_inputs:
                decoded = decode_strings(name, array)
                if isinstance(decoded, Failure):
                    return decoded
                array = decoded
            item[name] = array
        return item

    def _response(self, request: Any, result: Arrays | Failure) -> Any:
        if isinstance(result, Failure):
            return pb_utils.InferenceResponse([], pb_utils.TritonError(result.message, self._codes[result.cause]))
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, array)
                for name, array in zip(self._instance.output_names, result, strict=True)
                if name in wanted
            ]
        )
