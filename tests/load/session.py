"""One run from the command line to the verdict: target, generator, stages, findings, report."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

# First: Locust patches the standard library for gevent.
import locust

# isort: split
import grpc
from load import cli, compare, external, goals, knee, report, result, shapes, users
from load.arrivals import Profile
from load.console import Console, change_lines, ms, verdict_lines
from load.controller import Controller, Stage
from load.result import Queue
from load.rpc import Channels, Connection, read_texts
from load.sampling import Sampler
from load.target import RefusedError, Target, TargetError, check_target, embedded, given

from rejection_client import _protocol

FIRST_RATE = 20.0
STEP_SETTLE_S = 2.0
"""At the begin of a step of the search, not judged: what the step before left behind."""


def run(options: cli.Options) -> int:
    """Returns the exit code."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.url is not None:
            check_target(options.url, is_allowed=options.yes)
        if options.texts is not None:
            read_texts(options.texts)
        connection = _connection(options, options.url or "127.0.0.1:8001")
        connection.config()
    except (RefusedError, ValueError) as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_USAGE
    try:
        with _target(options, console) as target:
            return _Session(options, target, console).run()
    except TargetError as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_NOT_MET
    except KeyboardInterrupt:
        return cli.EXIT_INTERRUPTED


def _connection(options: cli.Options, url: str) -> Connection:
    return Connection(
        url=url,
        model=options.model,
        timeout_s=options.timeout_s,
        channels=options.channels,
        tls=options.tls,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
        server_name=options.server_name,
        token=cli.token(),
        compression=options.compression,
    )


@contextlib.contextmanager
def _target(options: cli.Options, console: Console) -> Iterator[Target]:
    if options.url is not None:
        yield given(options.url, options.metrics)
        return
    console.say("starting the embedded server")
    with embedded(options.repository) as target:
        yield target


class _Session:
    def __init__(self, options: cli.Options, target: Target, console: Console) -> None:
        self._options, self._target, self._console = options, target, console
        self._connection = _connection(options, target.url)
        self._started = datetime.now().astimezone()
        self._folder = options.output / self._started.strftime("%Y-%m-%dT%H-%M-%S")
        steps, self._queue = self._ask_server()
        self._sampler = Sampler(target.metrics, target.pid, options.model, steps)
        self._controller = Controller(
            self._connection,
            users.mix(options.users),
            options.texts.resolve() if options.texts else None,
            options.repeat,
            self._sampler,
            options.spacing,  # type: ignore[arg-type]  # argparse checks it
            options.seed,
            console.progress,
        )
        self._knee: knee.Knee | None = None
        self._check: knee.Knee | None = None
        self._main: tuple[Stage, float, float] | None = None
        """The stage that goals are judged on, with the span within it."""
        self._verdicts: list[goals.Verdict] = []
        self._notes: list[str] = []

    def run(self) -> int:
        options = self._options
        if not self._sampler.has_metrics:
            self._notes.append(
                f"no server side: Triton's metrics at {self._target.metrics} do not answer"
                if self._target.metrics
                else "no server side: --metrics was not given"
            )
        interrupted = False
        with self._controller.running(options.processes, options.bind, options.remote_workers):
            if options.remote_workers:
                self._console.say(f"{self._controller.workers} generator processes connected")
            try:
                self._load()
            except KeyboardInterrupt:
                interrupted = True
                self._notes.append("interrupted: this is what was measured until then")
            time.sleep(1.1)  # the last second of the server's side
        if not any(stage.recorder.cells for stage in self._controller.stages):
            self._console.say("interrupted before anything was measured")
            return cli.EXIT_INTERRUPTED
        found = self._result()
        self._compare(found)
        report.write(found, self._folder)
        self._tell(found)
        if interrupted:
            return cli.EXIT_INTERRUPTED
        return 0 if all(verdict.is_met for verdict in self._verdicts) else cli.EXIT_NOT_MET

    # --- what is sent ----------------------------------------------------------------------------------------------

    def _load(self) -> None:
        options = self._options
        if options.shape not in shapes.SEARCHING:
            self._stage(options.shape, shapes.profile(options.shape, options.rate or 1.0, options.duration_s))
            return
        rate = options.knee if options.shape == "overload" else None
        if rate is None:
            self._knee = self._search(self._step)
            rate = self._knee.rate
            if rate is None:
                self._verdicts.append(
                    goals.Verdict(f"a rate that keeps {options.latency_goal}", "none was found", is_met=False)
                )
                return
            self._console.say(f"the knee is at {rate:.1f} requests/s")
            if options.check_with is not None:
                self._check = self._check_with(options.check_with)
        if options.shape == "overload":
            self._overload(rate)

    def _stage(self, name: str, profile: Profile) -> Stage:
        self._main = None
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
                self._main = (stage, 0.0, end_s)
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
        self._main = (stage, settle_s, seconds + settle_s)
        found = result.goal_figures(
            stage.recorder, settle_s, seconds + settle_s, [options.latency_goal.percent or 99.0]
        )
        made = knee.Step(
            rate=rate,
            answered_rate=found["rate"] or 0.0,
            latency_ms=found[options.latency_goal.metric],
            failures_percent=100.0 if (failed := found["failures"]) is None else failed,
            is_generator_limit=bool(self._generator_problem(stage)),
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
        main = self._main
        stage = self._stage("overload", shapes.profile("overload", rate, options.duration_s))
        self._main = main or (stage, parts[0].begin_s, parts[0].end_s)
        samples = [
            type(sample)(**{**vars(sample), "time_s": sample.time_s - stage.offset_s})
            for sample in self._controller.samples
        ]
        self._verdicts += result.overload_verdicts(
            stage.recorder, samples, parts, self._queue, options.latency_goal.limit
        )

    def _check_with(self, binary: Path) -> knee.Knee:
        options = self._options
        texts = options.texts or users.TEXTS / f"{users.Single.profile}.jsonl"
        self._console.say(f"the same again with {binary.name}")
        generator = external.Generator(
            binary, self._target.url, read_texts(texts), options.repeat, options.latency_goal
        )
        return self._search(
            lambda rate, is_confirmation: generator.step(
                rate, shapes.DEFAULT_DURATION_S["knee"] if is_confirmation else options.step_s, is_confirmation
            )
        )

    # --- what was found --------------------------------------------------------------------------------------------

    def _generator_problem(self, stage: Stage) -> str:
        late = stage.recorder.total().late.percentile(99)
        return result.generator_problem(late, stage.cpu_shares, self._options.latency_goal.limit)

    def _judge(self, found: dict[str, float | None]) -> None:
        self._verdicts = [goals.judge(goal, found) for goal in self._options.goals] + self._verdicts
        if self._options.shape == "soak":
            stage = self._controller.stages[-1]
            begin_s, end_s = stage.offset_s, stage.offset_s + stage.duration_s
            verdict = result.memory_verdict(self._controller.samples, begin_s, end_s)
            self._verdicts += [verdict] if verdict else []

    def _result(self) -> dict[str, Any]:
        options, controller = self._options, self._controller
        main, begin_s, end_s = self._main or (controller.stages[-1], 0.0, controller.stages[-1].duration_s)
        percents = [goal.percent for goal in options.goals if goal.percent is not None]
        figures = result.goal_figures(main.recorder, begin_s, end_s, percents)
        self._judge(figures)
        measured = main.recorder.total(begin_s, end_s)
        for stage in controller.stages:
            problem = self._generator_problem(stage)
            if problem and (stage is main or stage.name == "overload"):
                self._notes.append(
                    f"the generator was the bottleneck in '{stage.name}': {problem}; latencies are too high by that, "
                    "and the server may carry more: use --processes, or workers on other machines"
                )
        finished = sum(stage.recorder.total().finished for stage in controller.stages)
        cpu_s = sum(stage.cpu_s for stage in controller.stages)
        return {
            "format": 1,
            "started": self._started.isoformat(timespec="seconds"),
            "target": self._target.description,
            "machine": machine(),
            "settings": {
                "shape": options.shape,
                "rate": None if self._knee else options.knee or options.rate,
                "duration_s": options.duration_s,
                "users": options.users,
                "texts": options.texts.name if options.texts else "built in",
                "repeat": options.repeat,
                "spacing": options.spacing,
                "goals": [str(goal) for goal in options.goals],
                "latency_goal": str(options.latency_goal),
                "timeout_s": options.timeout_s,
            },
            "generator": {
                "processes": controller.workers,
                "connections": controller.workers * options.channels,
                "cpu_ms_per_request": 1000 * cpu_s / finished if finished else None,
                "cpu_share_highest": max(
                    (share for stage in controller.stages for share in stage.cpu_shares), default=0
                ),
                "late_p99_ms": measured.late.percentile(99),
            },
            "queue": vars(self._queue) if self._queue else None,
            "main": {"stage": main.name, "begin_s": begin_s, "end_s": end_s},
            "figures": figures,
            "latency": measured.ok.pairs(),
            "failures": dict(measured.failures),
            "kinds": result.by_kind(main.recorder, begin_s, end_s),
            "blocks": result.blocks(main.recorder, begin_s, end_s),
            "knee": _plain_knee(self._knee, options),
            "check": _plain_knee(self._check, options),
            "stages": [
                {
                    "name": stage.name,
                    "begin_s": stage.offset_s,
                    "profile": [list(point) for point in stage.profile],
                    "figures": result.figures(stage.recorder, 0, stage.duration_s),
                    "failures": dict(stage.recorder.total().failures),
                    "messages": stage.messages,
                    "refusals_p99_ms": (
                        refusals.percentile(99)
                        if (refusals := stage.recorder.total().service.get("UNAVAILABLE"))
                        else None
                    ),
                }
                for stage in controller.stages
            ],
            "seconds": [
                row for stage in controller.stages for row in result.rows(stage.recorder, stage.offset_s, stage.name)
            ],
            "server": result.sample_rows(controller.samples),
            "verdicts": [vars(verdict) for verdict in self._verdicts],
            "notes": self._notes,
        }

    def _compare(self, found: dict[str, Any]) -> None:
        path = self._options.compare or report.last(self._options.output, found["settings"], found["target"])
        if path is None:
            return
        try:
            before = json.loads((path / "result.json" if path.is_dir() else path).read_text(encoding="utf-8"))
            changes = compare.changes(before, found)
            found["compared"] = {
                "with": before["started"],
                "changes": [{**vars(change), "percent": change.percent, "word": change.word} for change in changes],
                "differences": compare.differences(before, found),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            found["notes"].append(f"{path} cannot be compared with: it is no result.json of scripts/loadtest ({error})")
            if self._options.compare:
                self._verdicts.append(goals.Verdict(f"comparison with {path}", "not possible", is_met=False))
            return
        self._console.say(f"against the run of {before['started']}:")
        for line in change_lines(changes):
            self._console.say(line)
        for line in found["compared"]["differences"]:
            self._console.say(f"  but {line}")

    def _tell(self, found: dict[str, Any]) -> None:
        figures, say = found["figures"], self._console.say
        if self._knee and self._knee.rate:
            more = "the generator could send no more" if self._knee.is_generator_limit else "the next tried failed"
            upper = f", {more} at {self._knee.upper:.1f}/s" if self._knee.upper else ""
            say(f"highest sustained rate: {self._knee.rate:.1f} requests/s{upper}")
        if self._check is not None and self._knee and self._knee.rate and self._check.rate:
            off = 100 * (self._check.rate / self._knee.rate - 1)
            say(f"by the other generator: {self._check.rate:.1f} requests/s ({off:+.1f}%)")
        say(
            f"'{found['main']['stage']}': {figures['sent']:.0f} sent, {figures['rate']:.1f} answers/s, "
            f"p50 {ms(figures['p50'])}, p90 {ms(figures['p90'])}, p99 {ms(figures['p99'])}, "
            f"p99.9 {ms(figures['p99.9'])}, failed {figures['failures'] or 0:.2g}%"
            + "".join(f" {code} {count}" for code, count in sorted(found["failures"].items()))
        )
        generator = found["generator"]
        say(
            f"generator: {generator['processes']} processes, {generator['connections']} connections, "
            f"{generator['cpu_ms_per_request'] or 0:.2f} ms of CPU a request, 99% left within "
            f"{ms(generator['late_p99_ms'])} of their time"
        )
        for stage in found["stages"]:
            for code, message in sorted(stage["messages"].items()):
                say(f"'{stage['name']}': {stage['failures'].get(code, 0)} {code}, the first: {message[:200]}")
        for line in verdict_lines(self._verdicts):
            say(line)
        for note in found["notes"]:
            say(f"note: {note}")
        with contextlib.suppress(ValueError):
            self._folder = self._folder.relative_to(Path.cwd())
        say(f"report: {self._folder / 'report.html'}")

    # --- the server ------------------------------------------------------------------------------------------------

    def _ask_server(self) -> tuple[list[str], Queue | None]:
        """The models that do the work, and the queue of the last; raises TargetError if the server cannot be asked."""
        channels = Channels(self._connection)
        stub = channels.plain_stub()
        call = {"timeout": self._connection.timeout_s, "metadata": channels.metadata}

        def leaves(name: str) -> list[Any]:
            config = stub.ModelConfig(_protocol.config_request(name), **call).config
            steps = _protocol.step_models(config)
            return [leaf for step in steps for leaf in leaves(step)] if steps else [config]

        try:
            stub.ModelInfer(_protocol.infer_request(self._options.model, ["a first text"]), **call)
            models = leaves(self._options.model)
        except grpc.RpcError as error:
            raise TargetError(
                f"{self._target.url} does not answer a first request: {error.code().name}, {error.details()}"
            ) from error
        finally:
            channels.close()
        last = models[-1]
        policy = last.dynamic_batching.default_queue_policy
        queue = Queue(policy.max_queue_size, policy.default_timeout_microseconds / 1e6)
        return [model.name for model in models], queue if last.HasField("dynamic_batching") else None


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "locust": locust.__version__,
        "grpcio": grpc.__version__,
    }


def _plain_knee(found: knee.Knee | None, options: cli.Options) -> dict[str, Any] | None:
    if found is None:
        return None
    limits = options.latency_goal.limit, options.failures_goal.limit
    return {
        "rate": found.rate,
        "upper": found.upper,
        "is_generator_limit": found.is_generator_limit,
        "goal": options.latency_goal.metric,
        "limit_ms": options.latency_goal.limit,
        "steps": [{**vars(step), "is_carried": step.passes(*limits)} for step in found.steps],
    }
