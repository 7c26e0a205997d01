"""The command `scripts/bench`: options, and what to do with the figures."""

import argparse
import datetime
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from bench.settings import BUILD, LOADGEN, MODELS, QUICK, ROOT, SCENARIOS, WORKLOADS, Settings
from rejection_server import __version__

if TYPE_CHECKING:
    from bench.peers.peer import Peer

EPILOG = """examples:
  scripts/bench --quick                        three minutes: bundled model, what is installed already
  scripts/bench --models bundled --peers none  this server beside raw onnxruntime
  scripts/bench --peers all                    everything; makes an environment for each peer first (gigabytes)
  scripts/bench --scenarios fairness,soak --minutes 10
  scripts/bench report build/bench/results/DATE/result.json   draw the report again
  scripts/bench docs build/bench/results/DATE/result.json     write the tables of docs/benchmarks.md from it
  scripts/bench client                         what the Python client costs
  scripts/bench gpu                            what the GPU of this machine makes of the served graphs
  scripts/bench fleet                          how many servers a day's traffic takes, simulated

distilroberta is made with PyTorch: scripts/install bench export installs it. The bundled model exists as int8 alone.

Measure on a machine that does nothing else. Figures of different machines, or of a busy one, cannot be compared; ratios
within one run can. Systems take turns and every turn is repeated; tables show the median of the rounds."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure this server beside the raw runtime and what else could serve the same model: rates, "
        "latencies, CPU, memory, and how far the answers are from float32. Writes result.json, report.html and plots.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = result.add_argument
    option("--version", action="version", version=f"%(prog)s {__version__}")
    option("--quick", action="store_true", help="three minutes: bundled model, int8, short windows, once")
    option("--models", type=_names, metavar="A,B", help="bundled, distilroberta (its shape, random weights): both")
    option("--model", metavar="MODEL", help="another classifier instead: a checkpoint folder or Hugging Face id")
    option("--workloads", type=_names, metavar="A,B", help=f"of {', '.join(WORKLOADS)} (all)")
    peers = "peers by name, all, none, or installed: those whose environment is there (installed)"
    option("--peers", type=_names, metavar="A,B", help=peers)
    option("--list-peers", action="store_true", help="name the peers, how each is set up, and end")
    option("--precision", choices=["float32", "int8", "both"], help="both; with --quick int8")
    option("--concurrency", type=_integers, metavar="N,N", help="callers of the closed loop")
    shares = ",".join(map(str, Settings().offered))
    option("--offered", type=_shares, metavar="S,S",
           help=f"arrival rates as shares of the closed loop's best ({shares}); none")  # fmt: skip
    option("--seconds", type=_positive, metavar="S", help="length of each measured window (8)")
    option("--warm-seconds", type=_positive, metavar="S", help="the same load before each window (2)")
    option("--rounds", type=_whole, metavar="N", help="how often every system takes its turn (3)")
    option("--scenarios", type=_names, metavar="A,B", help=f"instead of the above: {', '.join(SCENARIOS)}")
    option("--minutes", type=_positive, metavar="M", help="length of the soak (10)")
    option("--output", type=Path, metavar="FOLDER", help="where results go (build/bench/results/DATE)")
    passed = "passed to tritonserver; repeatable"
    option("--triton-argument", action="append", default=[], metavar="ARGUMENT", help=passed)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _stop)
    verbs: dict[str, Callable[[list[str]], int]] = {
        "client": _client, "report": _report, "docs": _docs, "gpu": _gpu, "fleet": _fleet,
    }  # fmt: skip
    try:
        if arguments and arguments[0] in verbs:
            return verbs[arguments[0]](arguments[1:])
        options = parser().parse_args(arguments)
        return _list_peers() if options.list_peers else _measure(options, arguments)
    except (ValueError, RuntimeError, OSError) as exc:
        sys.stderr.write(f"scripts/bench: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("scripts/bench: stopped\n")
        return 130


def _stop(number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: what was started is stopped, what was measured is written."""
    # `timeout` and some service managers send it twice, which must not cut the stopping short.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    settings = settings_of(options)
    peers = chosen_peers(options.peers or ["installed"]) if not settings.scenarios else []
    if problem := preflight(settings):
        raise ValueError(problem)
    from bench import scenarios
    from bench.plan import fitted
    from bench.progress import Progress
    from bench.run import Run

    progress = Progress()
    for peer in peers:
        peer.install(progress.say)
    output = options.output or BUILD / "results" / datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M%S")
    run = Run(settings, peers, output, arguments)
    if options.quick and options.seconds is None:
        run.settings = fitted(settings, run.systems)
    interrupted = False
    try:
        if settings.scenarios:
            scenarios.go(run, progress)
        else:
            run.go(progress)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("stopped: writing what was measured")
    draw(run.write())
    return 130 if interrupted else int(bool(run.result["failures"]))


def settings_of(options: argparse.Namespace) -> Settings:
    """What the options mean; raises ValueError with a sentence for what does not exist."""
    base = QUICK if options.quick else Settings()
    _check("workload", options.workloads or (), WORKLOADS)
    _check("scenario", options.scenarios or (), SCENARIOS)
    _check("model", options.models or (), MODELS)
    given: dict[str, Any] = {
        "models": [options.model] if options.model else options.models,
        "precisions": ["int8", "float32"] if options.precision == "both" else options.precision and [options.precision],
        "warm_s": options.warm_seconds,
        "triton_arguments": options.triton_argument,
    }
    for name in ("workloads", "concurrency", "offered", "seconds", "rounds", "scenarios", "minutes"):
        given[name] = getattr(options, name)
    chosen: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return replace(base, **{name: value for name, value in chosen.items() if value is not None})


def preflight(settings: Settings) -> str:
    """What is missing for such a run, in a sentence that says what to do; empty if nothing is."""
    from bench.models import lacks_torch

    if any(map(lacks_torch, settings.models)):
        return "distilroberta is made with PyTorch, which is not installed: run scripts/install bench export first"
    if "callers" in settings.scenarios and not LOADGEN.is_file():
        return "the scenario callers needs the load generator in C++, which is not built: run scripts/build-loadgen"
    if settings.models == ("bundled",) and "int8" not in settings.precisions:
        return "the bundled model exists as int8 alone: choose --precision int8, or another model"
    return ""


def chosen_peers(names: Sequence[str]) -> "list[Peer]":
    """The peers that `--peers` names; raises ValueError for one that does not exist."""
    from bench.peers.catalogue import PEERS
    from bench.peers.environment import is_current

    if list(names) == ["none"]:
        return []
    if list(names) == ["installed"]:
        return [peer for peer in PEERS if is_current(peer.folder)]
    _check("peer", [name for name in names if name != "all"], [peer.name for peer in PEERS])
    return [peer for peer in PEERS if peer.name in names or "all" in names]


def draw(result: Path) -> None:
    """The tables on standard output; plots and the report beside the result."""
    from bench import report, table

    measured = json.loads(result.read_text(encoding="utf-8"))
    sys.stdout.write(table.text(measured) + "\n")
    written = report.write(measured, result.parent)
    sys.stdout.write(f"\nFigures: {_shown(result)}\nReport:  {_shown(written)}\n")
    sys.stdout.flush()


def _list_peers() -> int:
    from bench.peers.catalogue import PEERS

    for peer in PEERS:
        models = "" if peer.serves_bundled else "Not for bundled, which exists as int8 ONNX alone. "
        sys.stdout.write(
            f"{peer.name:<18} {', '.join(peer.precisions):<14} {peer.title}\n{'':18} {models}{peer.notes}\n"
        )
    return 0


def _client(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="scripts/bench client",
        description="Measure the Python client against a stand-in that answers at once: CPU of a call beyond a bare "
        "gRPC stub, time to import, memory of many texts. The exit code is 1 if a figure is over its limit.",
    )
    options.add_argument("--calls", type=int, default=3500, help="calls for the overhead (3500)")
    options.add_argument("--texts", type=int, default=10_000, help="texts for the memory (10000)")
    given = options.parse_args(arguments)
    from bench import client_cost

    return client_cost.report(given.calls, given.texts)


def _gpu(arguments: list[str]) -> int:
    from bench.gpu.cli import main as gpu

    return gpu(arguments)


def _fleet(arguments: list[str]) -> int:
    from bench.fleet.cli import main as fleet

    return fleet(arguments)


def _report(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(prog="scripts/bench report", description="Draw the report of a result again.")
    options.add_argument("result", type=Path)
    draw(options.parse_args(arguments).result.resolve())
    return 0


def _docs(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="scripts/bench docs",
        description="Write the tables and plots of docs/benchmarks.md from results, and keep these beside the plots.",
    )
    options.add_argument("results", type=Path, nargs="*", metavar="RESULT",
                         help="a result.json for each run of the page (those that the page has)")  # fmt: skip
    options.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md", metavar="PAGE")
    given = options.parse_args(arguments)
    from bench import docs

    sys.stdout.write(f"Written: {_shown(docs.write(given.results, given.output))}\n")
    return 0


def _check(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"there is no {kind} {name}: choose from {', '.join(known)}")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _integers(text: str) -> list[int]:
    values = [_positive(name) for name in _names(text)]
    if not values or any(value % 1 for value in values):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers like 1,8,32")
    return [int(value) for value in values]


def _whole(text: str) -> int:
    (value,) = _integers(text)
    return value


def _shares(text: str) -> list[float]:
    return [] if text == "none" else [_positive(name) for name in _names(text)]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value
