"""What a run sends: the stages of its shape, and what is judged of each at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from load import cli, external, goals, knee, result, shapes, users
from load.arrivals import Profile
from load.console import Console
from load.controller import Controller, Stage
from load.result import Queue
from load.rpc import read_texts
from load.wording import ms

FIRST_RATE = 20.0
STEP_SETTLE_S = 2.0
"""At the begin of a step of the search, not judged: what the step before left behind."""


class Sending:
    """The stages of a run, one after the other, on workers that are connected already."""

    def __init__(
        self, options: cli.Options, controller: Controller, url: str, queue: Queue | None, console: Console
    ) -> None:
        self._options, self._controller, self._console = options, controller, console
        self._url, self._queue = url, queue
        self.knee: knee.Knee | None = None
        self.check: knee.Knee | None = None
        """The knee by the other generator."""
        self.main: tuple[Stage, float, float] | None = None
        """The stage that goals are judged on, with the span within it."""
        self.verdicts: list[goals.Verdict] = []
        """Of the shape itself, not of the goals."""

    def generator_problem(self, stage: Stage) -> str:
        """Why the generator was the bottleneck of a stage, empty if it was not."""
        late = stage.recorder.total().late.percentile(99)
        return result.generator_problem(late, stage.cpu_shares, self._options.latency_goal.limit)

    def run(self) -> None:
        """Send everything; a KeyboardInterrupt goes on up, and what was measured until then stands."""
        options = self._options
        if options.shape not in shapes.SEARCHING:
            self._stage(options.shape, shapes.profile(options.shape, options.rate or 1.0, options.duration_s))
            return
        rate = options.knee if options.shape == "overload" else None
        if rate is None:
            self.knee = self._search(self._step)
            rate = self.knee.rate
            if rate is None:
                self.verdicts.append(
                    goals.Verdict(f"a rate that keeps {options.latency_goal}", "none was found", is_met=False)
                )
                return
            self._console.say(f"the knee is at {rate:.1f} requests/s")
            if options.check_with is not None:
                self.check = self._check_with(options.check_with)
        if options.shape == "overload":
            self._overload(rate)

    def _stage(self, name: str, profile: Profile) -> Stage:
        self.main = None
        stage = None
        try:
            stage = self._controller.run(name, profile)
        finally:
            # Of an interrupted stage, the whole seconds that it had.
            stage = stage or self._controller.stages[-1]
            seconds = max((second for second, _ in stage.recorder.cells), default=-1) + (
                0 if stage.is_interrupted else 1
            )
            end_s = min(stage.duration_s, float(seconds)) if stage.is_interrupted else stage.duration_s
            if end_s > 0:
                self.main = (stage, 0.0, end_s)
        return stage

    def _search(self, step: Any) -> knee.Knee:
        return knee.search(
            step,
            start_rate=self._options.rate or FIRST_RATE,
            latency_limit_ms=self._options.latency_goal.limit,
            failures_limit_percent=self._options.failures_goal.limit,
        )

    def _step(self, rate: float, is_confirmation: bool) -> knee.Step:
        options = self._options
        seconds = options.duration_s if is_confirmation and options.shape == "knee" else options.step_s
        if is_confirmation and options.shape == "overload":
            seconds = shapes.DEFAULT_DURATION_S["knee"]
        # Whole seconds: that is how requests are counted.
        seconds = float(max(1, round(seconds)))
        settle_s = STEP_SETTLE_S if seconds >= 5 * STEP_SETTLE_S else 1.0
        name = f"{'confirm' if is_confirmation else 'try'} {rate:.1f}/s"
        stage = self._stage(name, [(0.0, rate), (seconds + settle_s, rate)])
        self.main = (stage, settle_s, seconds + settle_s)
        found = result.goal_figures(
            stage.recorder, settle_s, seconds + settle_s, [options.latency_goal.percent or 99.0]
        )
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
            f"{rate:8.1f}/s  {'carried' if carried else 'too much'}  answered {made.answered_rate:.1f}/s  "
            f"{options.latency_goal.metric} {ms(made.latency_ms)}  failed {made.failures_percent:.2g}%"
            f"{'  (generator late)' if made.is_generator_limit else ''}"
        )
        return made

    def _overload(self, rate: float) -> None:
        options = self._options
        parts = shapes.parts("overload", rate, options.duration_s)
        main = self.main
        stage = self._stage("overload", shapes.profile("overload", rate, options.duration_s))
        self.main = main or (stage, parts[0].begin_s, parts[0].end_s)
        samples = [
            type(sample)(**{**vars(sample), "time_s": sample.time_s - stage.offset_s})
            for sample in self._controller.samples
        ]
        self.verdicts += result.overload_verdicts(
            stage.recorder, samples, parts, self._queue, options.latency_goal.limit
        )

    def _check_with(self, binary: Path) -> knee.Knee:
        options = self._options
        texts = options.texts or users.TEXTS / f"{users.Single.profile}.jsonl"
        self._console.say(f"the same again with {binary.name}")
        generator = external.Generator(binary, self._url, read_texts(texts), options.repeat, options.latency_goal)
        return self._search(
            lambda rate, is_confirmation: generator.step(
                rate, shapes.DEFAULT_DURATION_S["knee"] if is_confirmation else options.step_s, is_confirmation
            )
        )
