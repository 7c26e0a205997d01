"""What a run found, gathered for result.json: everything that the report shows."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

# First: Locust patches the standard library for gevent.
import locust

# isort: split
import grpc

from load import cli, goals, knee, result
from load.controller import Controller
from load.result import Queue
from load.sending import Sending


def gather(
    options: cli.Options,
    controller: Controller,
    sending: Sending,
    started: datetime,
    target: str,
    queue: Queue | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Judge what was measured, and return all of it as plain data; some stage was measured."""
    main, begin_s, end_s = sending.main or (controller.stages[-1], 0.0, controller.stages[-1].duration_s)
    percents = [goal.percent for goal in options.goals if goal.percent is not None]
    figures = result.goal_figures(main.recorder, begin_s, end_s, percents)
    verdicts = [*(goals.judge(goal, figures) for goal in options.goals), *sending.verdicts]
    if options.shape == "soak":
        verdicts += _soak_verdicts(controller)
    measured = main.recorder.total(begin_s, end_s)
    bottlenecks = [
        f"the generator was the bottleneck in '{stage.name}': {problem}; latencies are too high by that, "
        "and the server may carry more: use --processes, or workers on other machines"
        for stage in controller.stages
        if (stage is main or stage.name == "overload") and (problem := sending.generator_problem(stage))
    ]
    finished = sum(stage.recorder.total().finished for stage in controller.stages)
    cpu_s = sum(stage.cpu_s for stage in controller.stages)
    return {
        "format": 1,
        "started": started.isoformat(timespec="seconds"),
        "target": target,
        "machine": machine(),
        "settings": {
            "shape": options.shape,
            "rate": None if sending.knee else options.knee or options.rate,
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
            "cpu_share_highest": max((share for stage in controller.stages for share in stage.cpu_shares), default=0),
            "late_p99_ms": measured.late.percentile(99),
        },
        "queue": vars(queue) if queue else None,
        "main": {"stage": main.name, "begin_s": begin_s, "end_s": end_s},
        "figures": figures,
        "latency": measured.ok.pairs(),
        "failures": dict(measured.failures),
        "kinds": result.by_kind(main.recorder, begin_s, end_s),
        "blocks": result.blocks(main.recorder, begin_s, end_s),
        "knee": _plain_knee(sending.knee, options),
        "check": _plain_knee(sending.check, options),
        "stages": [
            {
                "name": stage.name,
                "begin_s": stage.offset_s,
                "profile": [list(point) for point in stage.profile],
                "figures": result.figures(stage.recorder, 0, stage.duration_s),
                "failures": dict(stage.recorder.total().failures),
                "messages": stage.messages,
                "refusals_p99_ms": (
                    refusals.percentile(99) if (refusals := stage.recorder.total().service.get("UNAVAILABLE")) else None
                ),
            }
            for stage in controller.stages
        ],
        "seconds": [
            row for stage in controller.stages for row in result.rows(stage.recorder, stage.offset_s, stage.name)
        ],
        "server": result.sample_rows(controller.samples),
        "verdicts": [vars(verdict) for verdict in verdicts],
        "notes": [*notes, *bottlenecks],
    }


def _soak_verdicts(controller: Controller) -> list[goals.Verdict]:
    stage = controller.stages[-1]
    verdict = result.memory_verdict(controller.samples, stage.offset_s, stage.offset_s + stage.duration_s)
    return [verdict] if verdict else []


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
