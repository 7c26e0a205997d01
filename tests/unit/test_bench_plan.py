"""What a run is going to measure, and what the options of `scripts/bench` mean."""

import io
from itertools import pairwise

import pytest

from bench.cli import main, parser, settings_of
from bench.plan import QUICK_BUDGET_S, fitted, points, step_s, steps
from bench.progress import Progress, duration
from bench.settings import WORKLOADS, Settings
from rejection_server import __version__

SYSTEMS = ["raw-onnxruntime", "rejection-server", "peer-a"]


def settings(*arguments: str) -> Settings:
    return settings_of(parser().parse_args(list(arguments)))


def test_systems_take_turns_and_each_round_begins_with_another() -> None:
    plan = steps(Settings(models=("m",), precisions=("int8",), rounds=3), SYSTEMS, {})
    assert [step.system for step in plan[::3]] == SYSTEMS
    assert all(before.system != after.system for before, after in pairwise(plan))
    assert sorted((step.round, step.system) for step in plan) == sorted(
        (number, system) for number in (1, 2, 3) for system in SYSTEMS
    )


def test_a_system_is_asked_for_what_it_serves_only() -> None:
    plan = steps(Settings(models=("m",), rounds=1), SYSTEMS, {"peer-a": [("m", "float32")]})
    assert {step.precision for step in plan if step.system == "peer-a"} == {"float32"}
    assert {step.precision for step in plan if step.system == "rejection-server"} == {"int8", "float32"}


def test_the_bundled_model_is_measured_as_shipped() -> None:
    plan = steps(Settings(models=("bundled", "m"), rounds=1), SYSTEMS, {})
    assert {step.precision for step in plan if step.model == "bundled"} == {"int8"}
    assert {step.precision for step in plan if step.model == "m"} == {"int8", "float32"}


def test_the_version_is_that_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"scripts/bench {__version__}\n"


def test_a_full_run_has_what_the_plots_need() -> None:
    full = settings()
    assert full.models == ("bundled", "distilroberta")
    assert full.workloads == WORKLOADS
    assert full.concurrencies("mixed") == (1, 8, 32, 128)
    assert 16 in full.concurrencies("short")
    assert full.rounds == 3


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_quick_run_fits_its_budget(count: int) -> None:
    systems = ["raw-onnxruntime", "rejection-server", *(f"peer-{number}" for number in range(count - 2))]
    quick = fitted(settings("--quick"), systems)
    assert (quick.models, quick.precisions, quick.rounds) == (("bundled",), ("int8",), 1)
    assert 1 <= quick.seconds <= 4
    planned_s = sum(step_s(quick, system) for system in systems)
    assert planned_s <= QUICK_BUDGET_S + 0.05 * sum(points(quick, system) for system in systems)


def test_options_override() -> None:
    chosen = settings("--quick", "--concurrency", "2,4", "--seconds", "3", "--precision", "both", "--offered", "none")
    assert (chosen.concurrencies("mixed"), chosen.concurrencies("batch")) == ((2, 4), (1,))
    assert (chosen.seconds, chosen.precisions, chosen.offered) == (3.0, ("int8", "float32"), ())
    assert settings("--model", "someone/classifier").models == ("someone/classifier",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workloads", "mixd"], "there is no workload mixd: choose from mixed, short, long, batch"),
        (["--models", "bert"], "there is no model bert: choose from bundled, distilroberta"),
        (
            ["--scenarios", "storm"],
            "there is no scenario storm: choose from bursts, callers, guard, fairness, repeats, soak, growth",
        ),
        (["--peers", "nobody"], "there is no peer nobody: choose from "),
        (["--models", "bundled", "--precision", "float32"], "the bundled model exists as int8 alone"),
    ],
)
def test_what_does_not_exist_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--concurrency", "0"], ["--concurrency", "a"], ["--seconds", "0"], ["--offered", "x"]],
)
def test_wrong_numbers_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(arguments)
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_time_left_follows_how_the_plan_held(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("bench.progress.time.monotonic", lambda: now[0])
    progress = Progress(io.StringIO())
    progress.plan(30)
    progress.begin(10)
    now[0] = 20.0
    progress.end()
    assert progress.left_s() == 40
    assert [duration(value) for value in (5, 65, 3700)] == ["0:05", "1:05", "1:01 h"]
