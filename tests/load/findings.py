"""What a run found, gathered for result.json: everything that the report shows."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

# First: Locust patches the standard library for gevent.
import locust

# isort: split
import grpc

from load import cli, goals, knee, result
from load.controller import Controller, Stage
from load.sending import Run, Sending

SETTINGS = ("shape", "duration_s", "model", "users", "repeat", "spacing", "timeout_s")


def gather(options: cli.Options, controller: Controller, sending: Sending, run: Run) -> dict[str, Any]:
    """Judge what was measured, and return all of it as plain data; some stage was measured."""
    main, begin_s, end_s = sending.main or (controller.stages[-1], 0.0, controller.stages[-1].duration_s)
    percents = [goal.percent for goal in options.goals if goal.percent is not None]
    figures = result.figures(main.requests, begin_s, end_s, percents)
    measured = main.requests.between(begin_s, end_s)
    bottlenecks = [
        f"the generator was the bottleneck in '{stage.name}': {problem}; latencies are too high by that, "
        "and the server may carry more: use --processes, or workers on other machines"
        for stage in controller.stages
        if (stage is main or stage.name == "overload") and (problem := sending.generator_problem(stage))
    ]
    finished = sum(stage.requests.finished for stage in controller.stages)
    cpu_s = sum(stage.cpu_s for stage in controller.stages)
    return {
        "started": run.started.isoformat(timespec="seconds"),
        "target": run.target.description,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "locust": locust.__version__,
            "grpcio": grpc.__version__,
        },
        "settings": {
            **{name: getattr(options, name) for name in SETTINGS},
            "rate": None if sending.knee else options.knee or options.rate,
            "texts": Path(options.texts).name if options.texts else "built in",
            "goals": [str(goal) for goal in options.goals],
            "latency_goal": str(options.latency_goal),
        },
        "generator": {
            "processes": controller.workers,
            "connections": controller.workers * options.channels,
            "cpu_ms_per_request": 1000 * cpu_s / finished if finished else None,
            "cpu_share_highest": max((share for stage in controller.stages for share in stage.cpu_shares), default=0),
            "late_p99_ms": measured.late(99),
        },
        "queue": asdict(run.queue) if run.queue else None,
        "main": {"stage": main.name, "begin_s": begin_s, "end_s": end_s},
        "figures": figures,
        "latency": measured.histogram().to_text(),
        "failures": dict(measured.failures),
        "kinds": result.by_kind(main.requests, begin_s, end_s),
        "blocks": result.blocks(main.requests, begin_s, end_s),
        "knee": _plain_knee(sending.knee, options),
        "check": _plain_knee(sending.check, options),
        "stages": [_plain_stage(stage) for stage in controller.stages],
        "seconds": [
            row for stage in controller.stages for row in result.seconds(stage.requests, stage.offset_s, stage.name)
        ],
        "server": [asdict(sample) for sample in controller.samples],
        "verdicts": [vars(v) for v in (*(goals.judge(goal, figures) for goal in options.goals), *sending.verdicts)],
        "notes": [*run.notes, *bottlenecks],
    }


def _plain_stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "begin_s": stage.offset_s,
        "duration_s": stage.duration_s,
        "figures": result.figures(stage.requests, 0, stage.duration_s),
        "failures": dict(stage.requests.failures),
        "messages": stage.messages,
    }


def _plain_knee(found: knee.Knee | None, options: cli.Options) -> dict[str, Any] | None:
    if found is None:
        return None
    goal, limits = options.latency_goal, (options.latency_goal.limit, options.failures_goal.limit)
    return {
        **vars(found),
        "goal": goal.metric,
        "limit_ms": goal.limit,
        "steps": [{**vars(step), "is_carried": step.passes(*limits)} for step in found.steps],
    }


def _processor() -> str:
    """What a figure depends on most."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
