"""The command `scripts/bench fleet`."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.fleet.check import as_json, check, sample
from bench.fleet.day import Day, Fleet, simulate_day
from bench.fleet.events import Pod, Steady
from bench.fleet.page import PAGE, text, write
from bench.fleet.scaling import Rules
from bench.fleet.traffic import day
from bench.machine import hardware
from bench.settings import ROOT

EPILOG = """examples:
  scripts/bench fleet                    days of fleets, simulated; a minute
  scripts/bench fleet --check 1,2,4      first hold the simulation against so many real servers behind Envoy
  scripts/bench fleet --check 1,2,4 --docs   write the tables and the plot of docs/scaling.md
  scripts/bench fleet clients --help     the ways that callers have to servers, measured

The times of a server are those that docs/benchmarks.md has measured; of another one give --pod-rate-short and
--pod-rate-mixed, texts a second of one that is never idle. Prices are yours to give."""

LIMIT_S = 1.0
INSTANCES = 2
SHORT_TOKENS, MIXED_TOKENS = 16, 152
"""Tokens of a text in the benchmark's two workloads, on average."""
DOORS, CHECK_S, SCRAPE_S, SAMPLES = 4, 0.5, 15.0, 260
"""Envoys, how often each asks a server for its health, how often a server's metrics are read, how many they are."""


@dataclass(frozen=True)
class Rule:
    """One way of scaling."""

    name: str
    targets: dict[str, float]
    """For each pod."""


RULES = (
    Rule("texts waiting, 8 for each instance", {"waiting": 8.0 * INSTANCES}),
    Rule("texts waiting, 2 for each instance", {"waiting": 2.0 * INSTANCES}),
    Rule("instances busy, 70%", {"busy": 0.7 * INSTANCES}),
    Rule("instances busy, 60%", {"busy": 0.6 * INSTANCES}),
    Rule("instances busy, 50%", {"busy": 0.5 * INSTANCES}),
    Rule("busy, 60%, and waiting, 32 for each", {"busy": 0.6 * INSTANCES, "waiting": 32.0 * INSTANCES}),
)
CHOSEN, OTHER = RULES[3], RULES[0]
STARTS_S = (15, 40, 120)


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="scripts/bench fleet",
        description="Simulate fleets of servers behind a door through a day with bursts: what is kept, how many "
        "servers it takes by which rule, and what that costs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--check", type=_counts, default=(), metavar="N,N", help="numbers of real servers to hold it against first")
    add("--seconds", type=float, default=30.0, metavar="S", help="length of each of those loads (30)")
    add("--peak", type=float, default=1000.0, metavar="RATE", help="texts a second at the day's peak (1000)")
    add("--pod-rate-short", type=float, default=220.0, metavar="RATE", help="of 16 tokens, two cores (220)")
    add("--pod-rate-mixed", type=float, default=32.1, metavar="RATE", help="of mixed lengths, two cores (32.1)")
    add("--price-cpu", type=float, default=0.085, metavar="MONEY", help="an hour of two cores (0.085)")
    add("--price-gpu", type=float, default=4.0, metavar="MONEY", help="an hour of a pod with an H200 (4)")
    add(
        "--gpu-rate",
        type=float,
        default=8883.0,
        metavar="RATE",
        help="texts a second of that pod, one a request (8883)",
    )
    add("--docs", action="store_true", help="write the tables and the plot of docs/scaling.md")
    return result


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if arguments[:1] == ["clients"]:
        from bench.fleet.clients_cli import main as clients

        return clients(arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        parser().error(f"there is no '{arguments[0]}': give options, or clients to measure the ways of callers")
    options = parser().parse_args(arguments)
    result = run(options, arguments, lambda words: print(words, file=sys.stderr, flush=True))
    if options.docs:
        write(result)
        print(f"Written: {PAGE.relative_to(ROOT)}")
    else:
        print(text(result))
    return 0


def run(options: argparse.Namespace, arguments: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the page."""
    checks = check(options.check, options.seconds, say) if options.check else []
    pod = pod_of(options.pod_rate_short, options.pod_rate_mixed)
    say("what a server shows at each share of its capacity")
    _, tokens = sample(MIXED_TOKENS)
    mean = float(np.mean(tokens))
    steady = Steady.of(pod, tokens)
    rates = day(options.peak)

    def fleet(rule: Rule, start_s: int, most: int) -> Fleet:
        rules = Rules(targets=rule.targets, least=2, most=most, start_s=start_s)
        return Fleet(pod=pod, steady=steady, tokens=mean, rules=rules)

    ideal_hours = float(rates.sum()) / pod.rate(mean) / 3600
    enough = round(4 * options.peak / pod.rate(mean))
    days: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    for rule in RULES:
        for start_s in STARTS_S if rule is CHOSEN else (40,):
            say(f"a day scaled by {rule.name}, pods ready after {start_s} s")
            lived = simulate_day(rates, fleet(rule, start_s, enough))
            days.append({"rule": rule.name, "start_s": start_s, "ideal_hours": ideal_hours, **_day_figures(lived)})
            if rule in (CHOSEN, OTHER) and start_s == 40:
                days[-1]["minutes"] = _minutes(lived)
    door_ms = float(np.median([one.door_cpu_ms for one in checks])) if checks else 1.0
    for factor in (0.1, 1.0, 10.0):
        say(f"a day with {factor:g} times the traffic")
        lived = simulate_day(rates * factor, fleet(CHOSEN, 40, round(enough * factor) + 2))
        figures = _day_figures(lived)
        busiest = float(lived.arriving.reshape(-1, 60).mean(axis=1).max())
        sizes.append({
            **figures, "peak": options.peak * factor, "door_cores": busiest * door_ms / 1000,
            "checks_per_s": DOORS / CHECK_S, "samples_per_s": figures["most"] * SAMPLES / SCRAPE_S,
        })  # fmt: skip
    chosen = next(one for one in days if one["rule"] == CHOSEN.name and one["start_s"] == 40)
    spread = chosen["pod_hours"] / ideal_hours
    costs = [
        _cost("two cores, the bundled model, int8", pod.rate(mean), options.price_cpu, spread, "measured"),
        _cost("one H200, DistilRoBERTa, fp16, a text a request", options.gpu_rate, options.price_gpu, spread,
              "rate measured without a container; the day calculated"),
    ]  # fmt: skip
    return {
        **origin("fleet", *arguments), "peak": options.peak, "checks": as_json(checks), "days": days,
        "sizes": sizes, "costs": costs,
    }  # fmt: skip


def origin(*words: str) -> dict[str, Any]:
    """The command `scripts/bench` with these words, when it ran, and on what."""
    machine = hardware()
    return {
        "command": shlex.join(["scripts/bench", *words]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": machine["processor"],
        "cores": machine["cores"],
    }


def pod_of(short: float, mixed: float) -> Pod:
    """A server of two instances by what it reaches when it is never idle, with texts of 16 tokens and of mixed lengths.

    Both rates are `Pod.rate`, solved for its two times.
    """
    short_s, mixed_s = (INSTANCES * 8 / rate for rate in (short, mixed))
    token_s = (mixed_s - short_s) / (8 * (MIXED_TOKENS - SHORT_TOKENS))
    return Pod(instances=INSTANCES, fixed_s=short_s - 8 * SHORT_TOKENS * token_s, token_s=token_s, way_s=0.003)


def _day_figures(lived: Day) -> dict[str, float]:
    return {
        "pod_hours": lived.pod_hours,
        "kept": lived.kept(LIMIT_S),
        "refused": float(lived.refused.sum() / lived.arriving.sum()),
        "most": float(lived.ready.max()),
    }


def _minutes(lived: Day) -> dict[str, list[float]]:
    def by_minute(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values.reshape(-1, 60)

    return {
        "texts": by_minute(lived.arriving).mean(axis=1).round(1).tolist(),
        "ready": by_minute(lived.ready).mean(axis=1).round(1).tolist(),
        "p99_s": by_minute(lived.p99_s).max(axis=1).round(3).tolist(),
    }


def _cost(pool: str, rate: float, price: float, spread: float, source: str) -> dict[str, Any]:
    busy = price / (rate * 3600) * 1e6
    return {"pool": pool, "rate": rate, "price": price, "busy": busy, "day": busy * spread, "source": source}


def _counts(words: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in words.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"'{words}' is not a list of numbers of servers like 1,2,4")
    return counts
