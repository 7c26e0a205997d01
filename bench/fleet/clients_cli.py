"""The command `scripts/bench fleet clients`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.fleet.cli import origin
from bench.fleet.clients import SERVERS, Load, lost, measure
from bench.fleet.page import PAGE, replace_between_marks, source
from bench.settings import ROOT
from load.tables import Table

EPILOG = """examples:
  scripts/bench fleet clients               six minutes
  scripts/bench fleet clients --bundled     with the bundled model, whose servers share this machine's cores
  scripts/bench fleet clients --rounds 3 --docs   write the table of docs/scaling.md

Each way carries a closed loop (rate), an open one (latency), a server that is killed with -9 and comes back, and each
server restarted in turn. What counts are ratios to the first way."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="scripts/bench fleet clients",
        description=f"Measure the ways that callers have to {SERVERS} servers: gRPC's round_robin, rejection_client, "
        "and Envoy before the servers; and what each loses when a server goes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, usual = result.add_argument, Load()
    add(
        "--seconds", type=float, default=usual.seconds, metavar="S", help=f"of each measured window ({usual.seconds:g})"
    )
    add("--clients", type=int, default=usual.clients, metavar="N",
        help=f"programs with connections of their own ({usual.clients})")  # fmt: skip
    add("--calls", type=int, default=usual.calls, metavar="N", help=f"each has under way at once ({usual.calls})")
    add("--rounds", type=int, default=usual.rounds, metavar="N", help=f"how often each takes its turn ({usual.rounds})")
    add("--bundled", action="store_true", help="the bundled model instead of a classifier that sleeps as long")
    add("--docs", action="store_true", help="write the table of docs/scaling.md")
    return result


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parser().parse_args(arguments)
    if min(options.seconds, options.clients, options.calls, options.rounds) <= 0:
        raise ValueError("--seconds, --clients, --calls and --rounds are numbers above 0")
    if options.docs and options.bundled:
        raise ValueError("docs/scaling.md has the table without --bundled alone: leave out --docs or --bundled")
    load = Load(
        clients=options.clients, calls=options.calls, seconds=options.seconds, rounds=options.rounds,
        sleeps=not options.bundled,
    )  # fmt: skip
    result = {
        **origin("fleet", "clients", *arguments),
        "ways": measure(load, _say),
    }
    if options.docs:
        replace_between_marks(PAGE, "scripts/bench fleet clients --docs", text(result))
        figures = PAGE.with_suffix("") / "clients.json"
        figures.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"Written: {PAGE.relative_to(ROOT)}\n")
    else:
        sys.stdout.write(text(result))
    return 0


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def text(result: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    ways = result["ways"]
    first = ways[0]
    heads = ("way", "rate", "p50", "p99", "lost of calls, a server killed", "lost of calls, servers restarted in turn")
    rows = [
        (one["way"], *(f"{one[name] / first[name]:.2f}" for name in ("rate", "p50_s", "p99_s")),
         _lost(one["killed"]), _lost(one["restarted"]))
        for one in ways
    ]  # fmt: skip
    told = (
        f"Rates and latencies as ratios to the first way, which carried {first['rate']:.1f} texts a second in a closed "
        f"loop, and in the open one answered in {first['p50_s']:.3f} s (p50) and {first['p99_s']:.2f} s (p99)."
    )
    return "\n\n".join([source(result), Table(heads, rows).markdown(), told]) + "\n"


def _lost(told: Mapping[str, int]) -> str:
    return f"{lost(told):,} of {sum(told.values()):,}"
