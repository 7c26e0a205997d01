"""What answers cost when a share of the calls also goes to another version, whose answers nobody takes.

    .venv/bin/python -m bench.shadow --calls 200

Three ways to answer the same texts with the bundled model take turns on one embedded Triton, without guard or cache:
`plain`; `step`, an ensemble with one more step, the classifier once more, whose outputs nobody asks for (Triton takes
no tensor that goes nowhere, so they are outputs of the ensemble); `copy`, the same call sent once more as soon as the
answer is there, and not waited for. A figure is the median over all calls as many times that of `plain`, and the
slowest twentieth in brackets. Each call is copied; where one in N is, copies cost about 1/N of what is more than 1.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server import MODEL_REPOSITORY
from rejection_server.host import ServeOptions, Server
from rejection_server.host.sizing import usable_cores

WAYS = ("plain", "step", "copy")
ROUND = 20
"""Calls of one way before the next one has its turn."""
WORDS = 40
TIMEOUT_S = 60.0


def repository(folder: Path) -> Path:
    """The bundled repository, and in it `shadowed`: `scoring` with one more step, and outputs of that."""
    made = Path(shutil.copytree(MODEL_REPOSITORY, folder / "repository"))
    text = (made / "scoring" / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    config.name = "shadowed"
    step = config.ensemble_scheduling.step.add()
    step.CopyFrom(next(one for one in config.ensemble_scheduling.step if one.model_name == "classifier"))
    for output in [one for one in config.output if one.name in step.output_map]:
        step.output_map[output.name] = f"shadow_{output.name}"
        config.output.add().CopyFrom(output)
        config.output[-1].name = f"shadow_{output.name}"
    (made / "shadowed" / "1").mkdir(parents=True)
    (made / "shadowed" / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    return made


def call(client: triton.InferenceServerClient, way: str, text: str) -> float:
    """Seconds until the answer."""
    tensor = triton.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=object))
    wanted = [triton.InferRequestedOutput("probabilities")]
    begin = time.monotonic()
    client.infer("shadowed" if way == "step" else "scoring", [tensor], outputs=wanted, client_timeout=TIMEOUT_S)
    taken = time.monotonic() - begin
    if way == "copy":
        client.async_infer("scoring", [tensor], lambda **_: None, outputs=wanted, client_timeout=TIMEOUT_S)
    return taken


def measure(address: str, callers: int, calls: int) -> dict[str, list[float]]:
    """Seconds of each call, by way; so many callers at a time, each without a pause."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    lock = threading.Lock()

    def ask(way: str) -> None:
        with triton.InferenceServerClient(address) as client:
            mine = [call(client, way, f"{way} {number} {'word ' * WORDS}") for number in range(ROUND)]
        with lock:
            taken[way] += mine

    with ThreadPoolExecutor(callers) as pool:
        for number in range(max(1, calls // ROUND) + 1):
            for way in WAYS:
                list(pool.map(ask, [way] * callers))
            if number == 0:  # warm-up
                taken.update({way: [] for way in WAYS})
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="of each caller, each way (default: %(default)s)")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4], help="at a time (default: 1 and 4)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = ServeOptions(
            repository=repository(Path(folder)),
            grpc_port=0,
            metrics_port=None,
            guard=False,
            cache_bytes=0,
            cores=usable_cores(),
        )
        with Server(options) as server:
            sys.stdout.write(f"{options.cores} cores\n{'callers':<8}{''.join(f'{way:>20}' for way in WAYS)}\n")
            for callers in arguments.callers:
                taken = measure(server.triton_address, callers, arguments.calls)
                middle = {way: statistics.median(values) for way, values in taken.items()}
                slow = {way: statistics.quantiles(values, n=20)[-1] for way, values in taken.items()}
                cells = (f"{middle[way] / middle['plain']:.2f} ({slow[way] / slow['plain']:.2f})" for way in WAYS)
                sys.stdout.write(f"{callers:<8}{''.join(f'{cell:>20}' for cell in cells)}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
