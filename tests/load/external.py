"""The same knee by another generator: a program of any language that prints one JSON object.

It is called as

    BINARY --url HOST:PORT --texts FILE.jsonl --rate R --seconds S

and prints, as its last line or as a whole, an object with `sent`, `ok`, `failed` (counts by code), `latency_ms` (`p50`,
`p90`, `p99`, `max`, from the intended times) and `achieved_rate` (good answers a second). The file holds a line with a
`text` for each request.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.knee import Step
from load.target import TargetError
from load.users import some_text

EXTRA_S = 60.0


@dataclass(frozen=True)
class Generator:
    """The program, and what it is told."""

    binary: Path
    url: str
    texts: list[str]
    repeat: float
    metric: str
    """The percentile that has the goal."""

    def step(self, rate: float, seconds: float, *, is_confirmation: bool) -> Step:
        """Offer a rate; raises TargetError if the program fails or says something else."""
        command = [str(self.binary.resolve()), "--url", self.url, "--rate", f"{rate:.3f}", "--seconds", f"{seconds:g}"]
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
                for _ in range(math.ceil(rate * seconds) + 1):
                    file.write(json.dumps({"text": some_text(self.texts, self.repeat)}) + "\n")
                file.flush()
                done = subprocess.run(
                    [*command, "--texts", file.name], stdout=subprocess.PIPE, check=True, timeout=seconds + EXTRA_S
                )
            told = _read(done.stdout.decode())
            return Step(
                rate=rate,
                answered_rate=float(told["achieved_rate"]),
                latency_ms=float(told["latency_ms"][self.metric]) if told["ok"] else None,
                failures_percent=100 * sum(told["failed"].values()) / max(1, told["sent"]),
                is_confirmation=is_confirmation,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise TargetError(f"the other generator failed: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TargetError(
                f"the other generator does not print what docs/loadtest.md asks for: {error!r}"
            ) from error


def _read(output: str) -> dict[str, Any]:
    try:
        told = json.loads(output)
    except ValueError:
        told = json.loads(output.strip().splitlines()[-1] if output.strip() else "")
    if not isinstance(told, dict):
        raise TypeError("not an object")
    return told
