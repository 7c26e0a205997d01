"""Whether a repository may be served on this machine's GPUs: what `serve --device gpu` asks before Triton starts.

onnxruntime falls back to the processor with a line in its log where its CUDA provider does not start, and a GPU's
kernels are not those that the model was compared with when it was prepared. So here, for one GPU after the other and in
a process of its own, the provider is started, and the graph answers once more the texts whose answers by the original
lie beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from rejection_server.commands import command
from rejection_server.facts import newest_version
from rejection_server.host.cuda import Gpu
from rejection_server.host.errors import HostError, OptionError, UnsupportedMachineError
from rejection_server.names import Names, classifiers_in
from rejection_server.prepare.recorded import GATE, compare_again
from rejection_server.prepared_for import device_problem
from rejection_server.wording import last_line, one_line

__all__ = ["Device", "check_device", "check_gpus", "check_served", "compare_served", "cuda_session"]

Device = Literal["cpu", "gpu"]

PROVIDER = "CUDAExecutionProvider"
CHECK_TIMEOUT_S = 300.0
AT_ONCE = 32
"""Texts that a Triton is asked at a time, so that it makes batches of them."""
TRY = f"import {__name__} as gpu; gpu.tell()"
"""The program of the process that tries the GPU; not `-m`, for the package imports this module."""


NOT_STARTED = (
    "onnxruntime could not start its CUDA provider and would have used the processor: see whether nvidia-smi names a "
    "GPU, and whether nvidia-cublas, nvidia-curand, nvidia-cuda-runtime and nvidia-cuda-nvrtc are installed"
)


class GpuError(Exception):
    """The GPU cannot be used; the message is one sentence."""


def check_device(repository: Path, device: Device) -> None:
    """Raise OptionError unless the repository is for that device."""
    if problem := device_problem(repository, device):
        raise OptionError(problem)


def check_gpus(repository: Path, gpus: Sequence[Gpu]) -> None:
    """Have each of the GPUs answer the recorded texts of all classifiers, one after the other.

    That is for the host's own onnxruntime. Where Triton runs the model by itself, with an onnxruntime of its own or
    with TensorRT, that is asked, by `check_served`, once it serves.

    Raises UnsupportedMachineError where one cannot be used, and HostError where its answers are not the original's.
    """
    for gpu in gpus:
        for names in classifiers_in(repository):
            _check_gpu(names.public, newest_version(repository, names), gpu)


def check_served(repository: Path, address: str) -> None:
    """Have the Triton at HOST:PORT answer the recorded texts; raises HostError if it does not as the original did."""
    for names in classifiers_in(repository):
        _check_classifier(names, newest_version(repository, names), address)


def _check_classifier(names: Names, version: Path, address: str) -> None:
    if not (version / GATE).is_file():  # made by hand
        return
    try:
        missed = compare_served(version, address, names.classifier)
    except (InferenceServerException, ValueError) as exc:
        raise HostError(
            f"{names.public} did not answer on this GPU ({one_line(exc, 200)}): look at it with nvidia-smi"
        ) from exc
    _raise_if_missed(names.public, missed)


def compare_served(version: Path, address: str, model: str, *, number: str = "", at_once: int = AT_ONCE) -> list[str]:
    """Ask a classifier at HOST:PORT or unix:PATH the texts recorded in its version's folder; what is beyond the gate.

    Args:
        version: the folder.
        address: of Triton's own gRPC service.
        model: the name of the classifier.
        number: its version, for Triton; empty leaves the choice to it.
        at_once: texts that it is asked at a time.

    Raises InferenceServerException where it does not answer, ValueError where an answer is not a number.
    """

    def probabilities(row: NDArray[Any]) -> NDArray[Any]:
        ids = triton.InferInput("input_ids", [1, len(row)], "INT64")
        ids.set_data_from_numpy(row[None])
        result = client.infer(model, [ids], model_version=number, client_timeout=CHECK_TIMEOUT_S)
        answer: NDArray[Any] | None = result.as_numpy("probabilities")
        if answer is None:
            raise HostError(f"the model {model} has no output 'probabilities': prepare the repository again")
        return answer

    def run(feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        rows = np.split(feed["input_ids"], np.cumsum(feed["sequence_lengths"])[:-1])
        return np.concatenate(list(pool.map(probabilities, rows)))

    with triton.InferenceServerClient(address) as client, ThreadPoolExecutor(at_once) as pool:
        return compare_again(version, run)[1]


def _check_gpu(name: str, version: Path, gpu: Gpu) -> None:
    where = f"GPU {gpu.index} ({gpu.name})"
    asked = [sys.executable, "-P", "-c", TRY, str(version), str(gpu.index)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=CHECK_TIMEOUT_S)
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as exc:
        raise UnsupportedMachineError(
            f"{where} did not answer within {CHECK_TIMEOUT_S:g} s: look at it with nvidia-smi, and start again"
        ) from exc
    except (IndexError, ValueError) as exc:
        raise UnsupportedMachineError(
            f"trying {where} ended with status {done.returncode} ({last_line(done.stderr)}): look at it with nvidia-smi"
        ) from exc
    if said.get("unusable"):
        raise UnsupportedMachineError(f"{where}: {said['unusable']}")
    _raise_if_missed(name, said.get("missed", []), where)


def _raise_if_missed(name: str, missed: Sequence[str], where: str = "this GPU") -> None:
    if missed:
        raise HostError(
            f"on {where} {name} does not answer like the original ({'; '.join(missed)}): prepare it again with "
            f"{command('prepare')} MODEL --device gpu --precision fp32"
        )


def cuda_session(model: Path | bytes, *, gpu: int = 0, exact: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` on the GPU of that number; `exact` keeps float32 from being rounded to TF32.

    Raises GpuError where onnxruntime has no CUDA provider or would fall back to the processor, and whatever
    onnxruntime raises for a model that it cannot load.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        raise GpuError(
            f"the installed onnxruntime {onnxruntime.__version__} is for processors alone: install onnxruntime-gpu in "
            "its place, which scripts/serve --device gpu does"
        )
    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # the processor only prepares the GPU's work
    chosen = (PROVIDER, {"device_id": str(gpu), "use_tf32": "0" if exact else "1"})
    given = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(given, options, providers=[chosen], enable_fallback=0)
    except Exception as exc:
        # Where a library is missing, onnxruntime only logs it, and then asks the processor for kernels of GPUs.
        if "CPUExecutionProvider" in str(exc):
            raise GpuError(NOT_STARTED) from exc
        raise
    if PROVIDER not in session.get_providers():
        raise GpuError(NOT_STARTED)
    return session


def tell() -> None:
    """Print as JSON what is wrong with a GPU: the command line names the version's folder and the GPU's number."""
    sys.stdout.write(json.dumps(tried(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")


def tried(version: Path, gpu: int) -> dict[str, Any]:
    """Have the GPU answer the recorded texts: why it is `unusable`, or what of the answers is beyond the thresholds."""
    try:
        session = cuda_session(version / "model.onnx", gpu=gpu)
        if not (version / GATE).is_file():  # made by hand
            return {}
        _, missed = compare_again(version, lambda feed: session.run(["probabilities"], dict(feed))[0])
    except GpuError as exc:
        return {"unusable": str(exc)}
    except Exception as exc:  # onnxruntime's exceptions have no common type of their own
        why = one_line(exc, 200)
        return {
            "unusable": f"the model does not run on this GPU ({why}): see with nvidia-smi what else uses its memory"
        }
    return {"missed": missed}
