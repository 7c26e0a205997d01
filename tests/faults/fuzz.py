"""Send a server everything that it must survive, and see that it does: `python -m faults.fuzz --help`.

Wrong requests of every kind, cancelled ones, broken connections and administrators' methods go to the real server,
while good callers compare each of their answers with one obtained before. What a call is follows from the seed and its
number; which calls meet in the server does not.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import queue
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from faults import sender
from faults.good import Good, serve_well
from faults.target import Target, memory, processes, started

__all__ = ["main"]

POLL_S = 0.25
JOIN_S = sender.HANG_S + 30
MEBIBYTE = 1 << 20
GROWTH_MIB = 256
"""How much more memory than before a process may have afterwards."""
EXAMPLES = 8
_GONE_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 if nothing was found, 1 if anything was."""
    options = _parser().parse_args(argv)
    with started(guarded=options.guard) as target:
        run = _Run(options, target)
        try:
            run.attack()
        except KeyboardInterrupt:
            run.found("interrupted", -1, "by the keyboard")
        finally:
            run.end()
    result = run.result()
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _say(_summary(result))
    return 1 if result["findings"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faults.fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--messages", type=int, default=20_000, help="calls to make (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long, whatever is left")
    parser.add_argument("--seed", type=int, default=1, help="what the calls follow from (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="number of the first call")
    parser.add_argument("--only", action="append", metavar="KIND", help="make calls of this kind, skip others' numbers")
    parser.add_argument("--senders", type=int, default=1, help="processes that send (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=64, help="calls at a time of each (default: %(default)s)")
    parser.add_argument("--good", type=int, default=2, help="good callers beside them (default: %(default)s)")
    parser.add_argument("--no-guard", dest="guard", action="store_false", help="attack a bare Triton")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    return parser


class _Run:
    def __init__(self, options: argparse.Namespace, target: Target) -> None:
        self._options = options
        self._target = target
        self._begin = time.monotonic()
        self._attack_s = 0.0
        self._sent: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._findings: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
        self._counts: collections.Counter[str] = collections.Counter()
        self._under_way: dict[int, list[tuple[int, float]]] = {}
        self._good = Good()
        self._memory: dict[str, dict[str, int]] = {"before": {}, "peak": {}, "after": {}}
        context = multiprocessing.get_context("spawn")
        self._context = context
        self._stop, self._good_stop = context.Event(), context.Event()
        self._good_reports: Any = context.Queue()
        self._workers: list[Any] = []
        self._reports: list[Any] = []
        self._good_worker = context.Process(
            target=serve_well,
            args=(target.address, options.good, options.seed, self._good_reports, self._good_stop),
        )
        self._said_s = 0.0

    def found(self, what: str, number: int, detail: str) -> None:
        """Something that must not be."""
        self._counts[what] += 1
        if len(self._findings[what]) < EXAMPLES:
            self._findings[what].append((number, detail))

    def attack(self) -> None:
        """Make all calls."""
        options, target = self._options, self._target
        self._answers = sender.ask(target.address)
        self._good_worker.start()
        if self._good_reports.get(timeout=JOIN_S) != "ready":
            raise AssertionError("the good callers begin by saying so")
        self._processes = processes(psutil.Process())
        self._memory["before"] = memory(self._processes)
        host, port = sender.split(target.address)
        end = options.first + options.messages
        for share in range(options.senders):
            numbers = range(options.first + share, end, options.senders)
            job = sender.Job(
                host=host,
                port=port,
                seed=options.seed,
                numbers=numbers,
                only=frozenset(options.only or ()),
                callers=options.callers,
                answers=self._answers,
                seconds=options.seconds,
            )
            reports = self._context.Queue()
            worker = self._context.Process(target=sender.send, args=(job, reports, self._stop))
            worker.start()
            self._workers.append(worker)
            self._reports.append(reports)
        self._begin = time.monotonic()
        while any(worker.is_alive() for worker in self._workers):
            time.sleep(POLL_S)
            self._look()
            if (failure := target.failure()) is not None:
                self._crashed(failure)
                return
        self._look()
        self._attack_s = time.monotonic() - self._begin
        for worker in self._workers:
            if worker.exitcode:
                self.found("sender failed", -1, f"status {worker.exitcode}")
        self._settle()

    def end(self) -> None:
        """Stop everything; what the good callers met is known then."""
        self._stop.set()
        self._good_stop.set()
        self._attack_s = self._attack_s or time.monotonic() - self._begin
        for worker in self._workers:
            worker.join(_GONE_S)
            worker.kill()
        if self._good_worker.pid is not None:
            try:
                self._good = self._good_reports.get(timeout=JOIN_S)
            except queue.Empty:
                self.found("hang", -1, "the good callers did not end")
            self._good_worker.kill()
        if self._good.wrong:
            self.found("wrong answer to a good caller", -1, f"{self._good.wrong}")
        for message, count in self._good.failed.items():
            self.found("failed call of a good caller", -1, f"{count} x {message}")
        if "crash" not in self._counts and (status := self._target.server.stop()):
            self.found("bad end", -1, f"the server ended with status {status}")
        if (noise := self._target.noise()) is not None:
            self.found("log", -1, noise)

    def _settle(self) -> None:
        """Once nobody is bad any more: every text still has its answer, and memory came back."""
        self._good_stop.set()
        try:
            if sender.ask(self._target.address) != self._answers:
                self.found("wrong answer", -1, "after the run")
        except (OSError, RuntimeError, TimeoutError) as exc:
            self.found("no answer", -1, f"after the run: {exc}")
        if (failure := self._target.failure()) is not None:
            self._crashed(failure)
        self._memory["after"] = memory(self._processes)
        for name, size in self._memory["after"].items():
            if (growth := (size - self._memory["before"][name]) / MEBIBYTE) > GROWTH_MIB:
                self.found("memory", -1, f"{name} grew by {growth:.0f} MiB")

    def _crashed(self, failure: str) -> None:
        numbers = sorted(number for calls in self._under_way.values() for number, _ in calls)
        self.found("crash", -1, f"{failure}; under way half a second before, or less: {numbers}")
        self._stop.set()

    def _look(self) -> None:
        for share, reports in enumerate(self._reports):
            while True:
                try:
                    sent, findings, self._under_way[share] = reports.get_nowait()
                except queue.Empty:
                    break
                for (kind, code), count in sent.items():
                    self._sent[kind][code] += count
                for what, number, detail in findings:
                    self.found(what, number, detail)
        for name, size in memory(self._processes).items():
            self._memory["peak"][name] = max(size, self._memory["peak"].get(name, 0))
        self._progress()

    def _progress(self) -> None:
        is_live, now = sys.stderr.isatty(), time.monotonic()
        if now - self._said_s < (POLL_S if is_live else 10):
            return
        self._said_s = now
        count, passed_s = self._total(), now - self._begin
        line = f"{count} of {self._options.messages} messages, {count / passed_s:.0f}/s, found {dict(self._counts)}"
        sys.stderr.write(f"\r\x1b[K{line[:150]}" if is_live else f"{line}\n")
        sys.stderr.flush()

    def _total(self) -> int:
        return sum(codes.total() for codes in self._sent.values())

    def result(self) -> dict[str, Any]:
        """All of it, for JSON."""
        latencies = self._good.latencies_s
        cuts = statistics.quantiles(latencies, n=1000) if len(latencies) > 1 else [0.0] * 999
        return {
            "seed": self._options.seed,
            "guard": self._options.guard,
            "messages": self._total(),
            "seconds": round(self._attack_s, 1),
            "sent": {kind: dict(codes) for kind, codes in sorted(self._sent.items())},
            "findings": {
                what: {"count": count, "examples": self._findings[what]} for what, count in self._counts.items()
            },
            "good": {
                "calls": self._good.calls,
                "wrong": self._good.wrong,
                "failed": dict(self._good.failed),
                "p50_ms": round(cuts[499] * 1000, 1),
                "p99_ms": round(cuts[989] * 1000, 1),
                "max_ms": round(max(latencies, default=0.0) * 1000, 1),
            },
            "memory_mib": {
                when: {name: round(size / MEBIBYTE, 1) for name, size in sizes.items()}
                for when, sizes in self._memory.items()
            },
        }


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{'':24}" + "what they came to"]
    for kind, codes in result["sent"].items():
        lines.append(f"{kind:24}" + "  ".join(f"{code} {count}" for code, count in sorted(codes.items())))
    for name, before in result["memory_mib"]["before"].items():
        peak, after = (result["memory_mib"][when].get(name, 0) for when in ("peak", "after"))
        lines.append(f"memory of {name}: {before} MiB before, at most {peak}, {after} after")
    good = result["good"]
    lines.append(
        f"good callers: {good['calls']} calls, {good['wrong']} wrong, {sum(good['failed'].values())} failed, "
        f"p50 {good['p50_ms']} ms, p99 {good['p99_ms']} ms, at most {good['max_ms']} ms"
    )
    lines.append(f"{result['messages']} messages in {result['seconds']} s, seed {result['seed']}")
    for what, found in result["findings"].items():
        lines.append(f"FOUND {found['count']} x {what}, such as")
        lines += [
            f"    {'call ' + str(number) + ': ' if number >= 0 else ''}{text}" for number, text in found["examples"]
        ]
    if not result["findings"]:
        lines.append("nothing found")
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
