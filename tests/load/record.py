"""What became of the requests, by second and kind; workers send it, the run adds it up. No I/O here.

A second belongs to the time a request was meant to be sent at, so that a server which answers late does not move its
latencies to a better moment. Only `answered` and `texts` count by the second of the answer: they make the throughput.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from load.buckets import Histogram, merged

OK = "OK"


@dataclass
class Cell:
    """One second of one kind of request."""

    sent: int = 0
    """Requests meant for this second."""
    answered: int = 0
    """Good answers that came in this second, to whatever request."""
    texts: int = 0
    """Texts in them."""
    latency: dict[str, Histogram] = field(default_factory=dict)
    """By outcome (OK or the gRPC code), from the intended time to the end of the request."""
    service: dict[str, Histogram] = field(default_factory=dict)
    """By outcome, from the actual sending."""
    late: Histogram = field(default_factory=Histogram)
    """From the intended time to the actual sending: what the generator itself adds."""

    def latency_of(self, outcome: str) -> Histogram:
        """Histogram of an outcome, made if need be."""
        return self.latency.setdefault(outcome, Histogram())

    def service_of(self, outcome: str) -> Histogram:
        """Histogram of an outcome, made if need be."""
        return self.service.setdefault(outcome, Histogram())

    def add(self, other: Cell) -> None:
        """Count what the other counted."""
        self.sent += other.sent
        self.answered += other.answered
        self.texts += other.texts
        for outcome, histogram in other.latency.items():
            self.latency_of(outcome).merge(histogram)
        for outcome, histogram in other.service.items():
            self.service_of(outcome).merge(histogram)
        self.late.merge(other.late)

    @property
    def ok(self) -> Histogram:
        """Latencies of the good answers to this second's requests."""
        return self.latency.get(OK, Histogram())

    @property
    def failures(self) -> Counter[str]:
        """Failed requests by gRPC code."""
        return Counter({code: histogram.total for code, histogram in self.latency.items() if code != OK})

    @property
    def finished(self) -> int:
        """Requests of this second that ended, well or not."""
        return sum(histogram.total for histogram in self.latency.values())

    def to_plain(self) -> dict[str, Any]:
        """As numbers, lists and dictionaries, for a message or JSON."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "texts": self.texts,
            "latency": {code: histogram.pairs() for code, histogram in self.latency.items()},
            "service": {code: histogram.pairs() for code, histogram in self.service.items()},
            "late": self.late.pairs(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Cell:
        """What `to_plain` gave."""
        return cls(
            sent=plain["sent"],
            answered=plain["answered"],
            texts=plain["texts"],
            latency={code: Histogram(pairs) for code, pairs in plain["latency"].items()},
            service={code: Histogram(pairs) for code, pairs in plain["service"].items()},
            late=Histogram(plain["late"]),
        )


class Recorder:
    """Cells by second and kind."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, str], Cell] = {}

    def cell(self, second: int, kind: str) -> Cell:
        """The cell, made if need be."""
        return self.cells.setdefault((second, kind), Cell())

    def add(self, second: int, kind: str, cell: Cell) -> None:
        """Count what a worker counted."""
        self.cell(second, kind).add(cell)

    def count(self, kind: str, intended_s: float, sent_s: float, ended_s: float, outcome: str, texts: int) -> None:
        """Count a request that ended, by its times in seconds from the stage's begin; `sent` is counted elsewhere."""
        cell = self.cell(int(intended_s), kind)
        cell.latency_of(outcome).add(1000 * (ended_s - intended_s))
        cell.service_of(outcome).add(1000 * (ended_s - sent_s))
        cell.late.add(1000 * (sent_s - intended_s))
        if outcome == OK:
            answered = self.cell(int(ended_s), kind)
            answered.answered += 1
            answered.texts += texts

    def take(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Everything counted since the last call, for a message."""
        cells, self.cells = self.cells, {}
        return [(second, kind, cell.to_plain()) for (second, kind), cell in cells.items()]

    def kinds(self) -> list[str]:
        """Kinds of request that occur."""
        return sorted({kind for _, kind in self.cells})

    def total(self, begin_s: float = 0, end_s: float = float("inf"), kind: str | None = None) -> Cell:
        """One cell of the seconds from `begin_s` on, before `end_s`."""
        return total(
            cell
            for (second, of_kind), cell in self.cells.items()
            if begin_s <= second < end_s and (kind is None or kind == of_kind)
        )

    def by_second(self) -> dict[int, Cell]:
        """The kinds together, second by second, without gaps."""
        if not self.cells:
            return {}
        last = max(second for second, _ in self.cells)
        seconds = {second: Cell() for second in range(last + 1)}
        for (second, _), cell in sorted(self.cells.items()):
            seconds[second].add(cell)
        return seconds


def total(cells: Iterable[Cell]) -> Cell:
    """All of them in one."""
    whole = Cell()
    for cell in cells:
        whole.add(cell)
    return whole


def percentile_of(cells: Iterable[Cell], percent: float) -> float | None:
    """Percentile of the good answers' latency, milliseconds."""
    return merged(cell.ok for cell in cells).percentile(percent)
