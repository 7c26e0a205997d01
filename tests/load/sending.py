"""What a run sends: the stages of its shape, and what is judged of each at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from load import external, knee, overload, result, shapes, texts, users
from load.arrivals import Profile
from load.cli import Options
from load.console import Console
from load.controller import Controller, Stage
from load.goals import Verdict
from load.overload import Queue
from load.sampling import Work
from load.tables import ms, percent
from load.target import Target

FIRST_RATE = 20.0
STEP_SETTLE_S = 2.0
"""At the begin of a step of the search, not judged: what the step before left behind."""


@dataclass
class Run:
    """What a run is, beside what it measures."""

    target: Target
    work: Work
    queue: Queue | None
    """What bounds the requests that wait."""
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    notes: list[str] = field(default_factory=list)


class Sending:
    """The stages of a run, one after the other, on workers that are connected already; the console is told of them."""

    def __init__(self, options: Options, controller: Controller, run: Run, console: Console) -> None:
        self._options, self._controller, self._run, self._console = options, controller, run, console
        self.knee: knee.Knee | None = None
        self.check: knee.Knee | None = None
        """The knee by the other generator."""
        self.main: tuple[Stage, float, float] | None = None
        """The stage that goals are judged on, with the span within it."""
        self.verdicts: list[Verdict] = []
        """Of the shape itself, not of the goals."""

    def generator_problem(self, stage: Stage) -> str:
        """Why the generator was the bottleneck of a stage, empty if it was not."""
        return result.generator_problem(stage.requests.late(99), stage.cpu_shares, self._options.latency_goal.limit)

    def run(self) -> None:
        """Send everything; a KeyboardInterrupt goes on up, and what was measured until then stands."""
        options = self._options
        if options.shape not in shapes.SEARCHING:
            stage = self._stage(options.shape, shapes.profile(options.shape, options.rate or 1.0, options.duration_s))
            if options.shape == "soak":
                end_s = stage.offset_s + stage.duration_s
                verdict = overload.memory_verdict(self._controller.samples, stage.offset_s, end_s)
                self.verdicts += [verdict] if verdict else []
            return
        rate = options.knee if options.shape == "overload" else None
        if rate is None:
            self.knee = self._search(self._step)
            rate = self.knee.rate
            if rate is None:
                self.verdicts.append(
                    Verdict(f"a rate that keeps {options.latency_goal}", "none was found", is_met=False)
                )
                return
            self._console.say(f"the knee is at {rate:.1f} requests/s")
            if options.check_with is not None:
                self.check = self._check_with(options.check_with)
        if options.shape == "overload":
            self._overload(rate)

    def _stage(self, name: str, profile: Profile) -> Stage:
        self.main = None
        try:
            self._controller.run(name, profile)
        finally:
            stage = self._controller.stages[-1]
            end_s = stage.duration_s
            if stage.is_interrupted:  # the whole seconds that it had
                end_s = min(end_s, float(int(stage.requests.rows["intended_s"].max(initial=0))))
            if end_s > 0:
                self.main = (stage, 0.0, end_s)
        return stage

    def _search(self, step: Callable[[float, bool], knee.Step]) -> knee.Knee:
        return knee.search(
            step,
            start_rate=self._options.rate or FIRST_RATE,
            latency_limit_ms=self._options.latency_goal.limit,
            failures_limit_percent=self._options.failures_goal.limit,
        )

    def _seconds(self, is_confirmation: bool) -> float:
        """Of a step of the search: whole ones, as requests are counted."""
        options = self._options
        confirming_s = options.duration_s if options.shape == "knee" else shapes.DEFAULT_DURATION_S["knee"]
        return float(max(1, round(confirming_s if is_confirmation else options.step_s)))

    def _step(self, rate: float, is_confirmation: bool) -> knee.Step:
        options, seconds = self._options, self._seconds(is_confirmation)
        settle_s = STEP_SETTLE_S if seconds >= 5 * STEP_SETTLE_S else 1.0
        name = f"{'confirm' if is_confirmation else 'try'} {rate:.1f}/s"
        stage = self._stage(name, [(0.0, rate), (seconds + settle_s, rate)])
        self.main = (stage, settle_s, seconds + settle_s)
        found = result.figures(stage.requests, settle_s, seconds + settle_s, [options.latency_goal.percent or 99.0])
        made = knee.Step(
            rate=rate,
            answered_rate=found["rate"] or 0.0,
            latency_ms=found[options.latency_goal.metric],
            failures_percent=100.0 if (failed := found["failures"]) is None else failed,
            is_generator_limit=bool(self.generator_problem(stage)),
            is_confirmation=is_confirmation,
            sent_rate=found["offered"],
        )
        carried = made.passes(options.latency_goal.limit, options.failures_goal.limit)
        self._console.say(
            f"{rate:8.1f}/s  {'carried ' if carried else 'too much'}  answered {made.answered_rate:.1f}/s  "
            f"{options.latency_goal.metric} {ms(made.latency_ms)}  failed {percent(made.failures_percent)}"
            f"{'  (generator late)' if made.is_generator_limit else ''}"
        )
        return made

    def _overload(self, rate: float) -> None:
        options = self._options
        parts = shapes.parts("overload", rate, options.duration_s)
        main = self.main
        stage = self._stage("overload", shapes.profile("overload", rate, options.duration_s))
        self.main = main or (stage, parts[0].begin_s, parts[0].end_s)
        samples = [replace(sample, time_s=sample.time_s - stage.offset_s) for sample in self._controller.samples]
        self.verdicts += overload.verdicts(stage.requests, samples, parts, self._run.queue, options.latency_goal.limit)

    def _check_with(self, binary: Path) -> knee.Knee:
        options = self._options
        self._console.say(f"the same again with {binary.name}")
        drawn_from = texts.read(Path(options.texts or users.TEXTS / f"{users.Single.profile}.jsonl"))
        generator = external.Generator(
            binary, self._run.target.url, drawn_from, options.repeat, options.latency_goal.metric
        )
        return self._search(
            lambda rate, is_confirmation: generator.step(
                rate, self._seconds(is_confirmation), is_confirmation=is_confirmation
            )
        )
