"""The command `scripts/bench`: options, and what to do with the figures."""

import argparse
import datetime
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from bench.choices import MODELS, OFFERED, SCENARIOS, WORKLOADS
from bench.paths import BUILD, ROOT

if TYPE_CHECKING:
    from bench.peers import Peer
    from bench.plan import Settings

EPILOG = """examples:
  scripts/bench --quick                        three minutes: bundled model, what is installed already
  scripts/bench --models bundled --peers none  this server beside raw onnxruntime
  scripts/bench --peers all                    everything; makes an environment for each peer first (gigabytes)
  scripts/bench --scenarios fairness,soak --minutes 10
  scripts/bench report build/bench/results/DATE/result.json   draw the report again
  scripts/bench docs build/bench/results/DATE/result.json     write docs/benchmarks.md from it
  scripts/bench client                         what the Python client costs

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
    result.add_argument("--quick", action="store_true", help="three minutes: bundled model, int8, short windows, once")
    result.add_argument(
        "--models", type=_names, metavar="A,B", help="bundled, distilroberta (its shape, random weights): both"
    )
    result.add_argument(
        "--model", metavar="MODEL", help="another classifier instead: a checkpoint folder or Hugging Face id"
    )
    result.add_argument("--workloads", type=_names, metavar="A,B", help=f"of {', '.join(WORKLOADS)} (all)")
    result.add_argument(
        "--peers",
        type=_names,
        metavar="A,B",
        help="peers by name, all, none, or installed: those whose environment is there (installed)",
    )
    result.add_argument("--list-peers", action="store_true", help="name the peers, how each is set up, and end")
    result.add_argument("--precision", choices=["float32", "int8", "both"], help="both; with --quick int8")
    result.add_argument("--concurrency", type=_integers, metavar="N,N", help="callers of the closed loop")
    result.add_argument(
        "--offered",
        type=_shares,
        metavar="S,S",
        help=f"arrival rates as shares of the closed loop's best ({','.join(map(str, OFFERED))}); none",
    )
    result.add_argument("--seconds", type=_positive, metavar="S", help="length of each measured window (8)")
    result.add_argument("--warm-seconds", type=_positive, metavar="S", help="the same load before each window (2)")
    result.add_argument("--rounds", type=int, metavar="N", help="how often every system takes its turn (3)")
    result.add_argument("--scenarios", type=_names, metavar="A,B", help=f"instead of the above: {', '.join(SCENARIOS)}")
    result.add_argument("--minutes", type=_positive, default=10.0, metavar="M", help="length of the soak (10)")
    result.add_argument("--output", type=Path, metavar="FOLDER", help="where results go (build/bench/results/DATE)")
    result.add_argument(
        "--triton-argument", action="append", default=[], metavar="ARGUMENT", help="passed to tritonserver; repeatable"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _stop)
    verbs: dict[str, Callable[[list[str]], int]] = {"client": _client, "report": _report, "docs": _docs}
    if arguments and arguments[0] in verbs:
        return verbs[arguments[0]](arguments[1:])
    options = parser().parse_args(arguments)
    if options.list_peers:
        return _list_peers()
    try:
        return _measure(options, arguments)
    except (ValueError, RuntimeError, OSError) as exc:
        sys.stderr.write(f"scripts/bench: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("scripts/bench: stopped\n")
        return 130


def _stop(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does: what was started is stopped, what was measured is written."""
    # `timeout` and some service managers send it twice, which must not cut the stopping short.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from bench import scenarios
    from bench.plan import fitted
    from bench.progress import Progress
    from bench.run import Run

    progress = Progress()
    peers = _chosen_peers(options.peers or ["installed"], progress.say) if not options.scenarios else []
    settings = settings_of(options)
    output = options.output or BUILD / "results" / datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M%S")
    run = Run(settings, peers, output, arguments)
    if options.quick and options.seconds is None:
        settings = run.settings = fitted(settings, run.systems)
    interrupted = False
    try:
        if settings.scenarios:
            scenarios.go(run, progress)
        else:
            run.go(progress)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("stopped: writing what was measured")
    path = run.write()
    draw(path)
    return 130 if interrupted else int(bool(run.result["failures"]))


def settings_of(options: argparse.Namespace) -> "Settings":
    """What the options mean; raises ValueError with a sentence for what does not exist."""
    from bench.plan import QUICK_OFFERED, QUICK_WORKLOADS, Settings

    base = Settings()
    if options.quick:
        base = Settings(
            models=("bundled",),
            precisions=("int8",),
            workloads=QUICK_WORKLOADS,
            offered=QUICK_OFFERED,
            rounds=1,
            quick=True,
            every_layout=False,
        )
    _check("workload", options.workloads or (), WORKLOADS)
    _check("scenario", options.scenarios or (), SCENARIOS)
    _check("model", options.models or (), MODELS)
    precisions = {None: base.precisions, "both": ("int8", "float32")}.get(options.precision, (options.precision,))
    return Settings(
        models=(options.model,) if options.model else tuple(options.models or base.models),
        precisions=precisions,
        workloads=tuple(options.workloads or base.workloads),
        concurrency=tuple(options.concurrency or ()),
        offered=base.offered if options.offered is None else tuple(options.offered),
        seconds=options.seconds or base.seconds,
        warm_s=options.warm_seconds or base.warm_s,
        rounds=options.rounds or base.rounds,
        quick=base.quick,
        every_layout=base.every_layout,
        scenarios=tuple(options.scenarios or ()),
        minutes=options.minutes,
        triton_arguments=tuple(options.triton_argument),
    )


def draw(result: Path) -> None:
    """The table on standard output; plots and the report beside the result."""
    import json

    from bench import table

    measured = json.loads(result.read_text(encoding="utf-8"))
    sys.stdout.write(table.text(measured) + "\n")
    try:
        from bench import report
    except ImportError as exc:
        sys.stdout.write(f"No report was drawn: the Python package {exc.name} is missing; scripts/bench installs it.\n")
    else:
        written = report.write(measured, result.parent)
        sys.stdout.write(f"\nFigures: {_shown(result)}\nReport:  {_shown(written)}\n")
    sys.stdout.flush()


def _chosen_peers(names: Sequence[str], say: Callable[[str], None]) -> "list[Peer]":
    if list(names) == ["none"]:
        return []
    from bench.peers import PEERS
    from bench.peers.environment import is_current

    known = {peer.name: peer for peer in PEERS}
    if list(names) == ["installed"]:
        return [peer for peer in PEERS if is_current(peer.folder)]
    _check("peer", [name for name in names if name != "all"], tuple(known))
    chosen = list(PEERS) if "all" in names else [known[name] for name in names]
    for peer in chosen:
        peer.install(say)
    return chosen


def _list_peers() -> int:
    from bench.peers import PEERS

    for peer in PEERS:
        sys.stdout.write(f"{peer.name:<24} {', '.join(peer.precisions):<14} {peer.title}\n{'':24} {peer.notes}\n")
    return 0


def _client(arguments: list[str]) -> int:
    from bench import client_cost

    return client_cost.main(arguments)


def _report(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(prog="scripts/bench report", description="Draw the report of a result again.")
    options.add_argument("result", type=Path)
    draw(options.parse_args(arguments).result.resolve())
    return 0


def _docs(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="scripts/bench docs",
        description="Write docs/benchmarks.md, and its plots, from results; preface.md beside the plots comes first.",
    )
    options.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="a result.json; a section for each")
    options.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
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
    try:
        values = [int(name) for name in _names(text)]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers like 1,8,32") from exc
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' holds a number below 1")
    return values


def _shares(text: str) -> list[float]:
    if text == "none":
        return []
    try:
        return [_positive(name) for name in _names(text)]
    except argparse.ArgumentTypeError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers above 0 like 0.5,0.8") from exc


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from exc
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
