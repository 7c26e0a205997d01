"""Draw the dashboard's panels from a live Prometheus while load grows: `python docker/grafana/picture.py`.

Writes docs/operations/dashboard.svg. Starts the embedded server, a Prometheus that asks it, and callers in
steps, with texts of tests/data; takes two minutes. Needs the environment of kind `test` and the program `prometheus`.
"""

from __future__ import annotations

import itertools
import json
import random
import runpy
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.prometheus import Prometheus, prometheus
from support.repository import REPOSITORY, ROOT

FILE = ROOT / "docs" / "operations" / "dashboard.svg"
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
STEPS = (1, 4, 16, 64, 8)
"""Callers of each step."""
STEP_S = 20.0
GRAFANA = {"$__rate_interval": "6s", "$job": "rejection.*", "$instance": ".*"}
UNITS = {"reqps": "a second", "s": "seconds", "percentunit": "share", "bytes": "MiB", "ms": "milliseconds", "short": ""}


def main() -> None:
    """Load, ask, draw."""
    texts = [json.loads(line)["text"] for line in (ROOT / "tests" / "data" / "responses.jsonl").open(encoding="utf-8")]
    options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0)
    with Server(options) as server, tempfile.TemporaryDirectory() as folder:
        assert server.metrics_address is not None
        target = server.metrics_address.split("/")[2]
        with prometheus(Path(folder), target, ALERTS) as asked:
            begin = time.time()
            for count in STEPS:
                _load(server.grpc_address, texts, count)
            _draw(asked, begin, time.time())


def _load(address: str, texts: list[str], count: int) -> None:
    until = time.monotonic() + STEP_S

    def call(seed: int) -> None:
        chosen, wire = random.Random(f"{count} {seed}"), Wire(address)
        for number in itertools.count():
            if time.monotonic() > until:
                return
            text = chosen.choice(texts)[:1000]
            try:
                wire.infer([text if chosen.random() < 0.3 else f"{count}.{seed}.{number} {text}"])
                if chosen.random() < 0.02:
                    wire.error(request([b"\xff"]))
                    wire.error(request([text], model="scoring"))
            except grpc.RpcError:
                time.sleep(0.1)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(count)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


def _draw(asked: Prometheus, begin: float, end: float) -> None:
    panels = [
        panel
        for row, inside in runpy.run_path(str(Path(__file__).with_name("dashboard.py")))["ROWS"].items()
        for panel in inside
        if row != "GPU"
    ]
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rejection", "font.size": 8})
    figure, axes = plt.subplots(4, 3, figsize=(12, 11), layout="constrained")
    for panel, ax in zip(panels, axes.flat, strict=True):
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for legend, expression in panel.targets.items():
            for series in _ask(asked, expression, begin, end):
                points = [(float(at) - begin, float(value)) for at, value in series["values"] if value != "NaN"]
                name = legend
                for label, value in series["metric"].items():
                    name = name.replace(f"{{{{{label}}}}}", "server" if label == "instance" else value)
                lines[name] = [at for at, _ in points], [value for _, value in points]
        _plot(ax, panel, lines)
    figure.suptitle(f"{', '.join(map(str, STEPS))} callers, {STEP_S:g} s each; seconds since the start")
    FILE.parent.mkdir(exist_ok=True)
    figure.savefig(FILE, metadata={"Date": None})


def _plot(ax: Axes, panel: Any, lines: dict[str, tuple[list[float], list[float]]]) -> None:
    scale = 2**20 if panel.unit == "bytes" else 1
    for name, (times, values) in sorted(lines.items()):
        ax.plot(times, [value / scale for value in values], label=name)
    ax.set_title(panel.title)
    ax.set_ylabel(UNITS[panel.unit])
    ax.set_ylim(0, 1.1 * max((value / scale for _, values in lines.values() for value in values), default=1) or 1)
    if lines:
        ax.legend(loc="best", fontsize=7)


def _ask(asked: Prometheus, expression: str, begin: float, end: float) -> Any:
    for name, value in GRAFANA.items():
        expression = expression.replace(name, value)
    return asked.ask("query_range", query=expression, start=str(begin), end=str(end), step="1")["result"]


if __name__ == "__main__":
    main()
