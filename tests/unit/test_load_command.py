"""The command line, what may be loaded, the server's metrics, and the report, without a server."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from load import cli, console, metrics, page, report, sampling, target
from load.histogram import Histogram
from rejection_server import __version__


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shape", "steady"], "needs --rate"),
        (["--shape", "spike", "--rate", "5", "--duration", "5"], "12 s or more"),
        (["--goal", "p99=fast"], "is not a goal"),
        (["--rate", "0"], "above 0"),
        (["--duration", "soon"], "is not a time"),
        (["--repeat", "2"], "from 0 to 1"),
        (["--processes", "0"], "needs --remote-workers"),
        (["--check-with", "/nowhere"], "is not a file"),
        (["--shape=knee", "--model=toxicity", "--check-with", __file__], "asks the model rejection: leave out --model"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse(arguments)
    assert ended.value.code == cli.EXIT_USAGE
    told = capsys.readouterr().err
    assert sentence in told
    assert len(told.splitlines()) == 1


def test_times_have_units_and_shapes_their_own_durations() -> None:
    assert cli.parse(["--duration", "2m"]).duration_s == 120
    assert cli.parse(["--shape", "soak", "--rate", "5"]).duration_s == 3600
    assert cli.parse([]).latency_goal.limit == 200
    assert cli.parse(["--goal", "failures=1%", "--goal", "p95=1s"]).latency_goal.metric == "p95"


def test_help_needs_nothing_but_python_and_the_version_is_the_servers() -> None:
    command = [sys.executable, "-m", "load.cli", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == __version__
    program = "import sys; from load import cli; cli.parse([]); print(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    outside = {name.partition(".")[0] for name in ended.stdout.split()} - set(sys.stdlib_module_names)
    assert not outside & {
        "locust",
        "gevent",
        "grpc",
        "numpy",
        "matplotlib",
        "rejection_client",
        "psutil",
        "tritonclient",
    }


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "unix:/tmp/x", "127.0.0.1:1,127.0.0.2:2"]
)
def test_this_machine_may_be_loaded(url: str) -> None:
    target.check_target(url, is_allowed=False)


@pytest.mark.parametrize(
    "url", ["192.0.2.7:8001", "127.0.0.1:8001,192.0.2.7:8001", "[2001:db8::1]:8001", "0.0.0.0:8001"]
)
def test_another_machine_is_loaded_only_when_a_person_says_so(url: str) -> None:
    with pytest.raises(target.RefusedError, match="--yes"):
        target.check_target(url, is_allowed=False)
    target.check_target(url, is_allowed=True)


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:8001", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        target.check_target(url, is_allowed=True)


METRICS = """\
# HELP nv_inference_count Number of inferences
nv_inference_count{{model="classifier",version="1"}} {rows}
nv_inference_exec_count{{model="classifier",version="1"}} {runs}
nv_inference_exec_count{{model="tokenizer",version="1"}} {runs}
nv_inference_exec_count{{model="rejection",version="1"}} {rows}
nv_inference_request_success{{model="classifier",version="1"}} {rows}
nv_inference_request_failure{{model="rejection",reason="OTHER",version="1"}} {runs}
nv_inference_request_failure{{model="rejection",reason="REJECTED",version="1"}} {runs}
nv_inference_queue_duration_us{{model="classifier",version="1"}} {queue}
nv_inference_compute_infer_duration_us{{model="classifier",version="1"}} {queue}
nv_inference_pending_request_count{{model="classifier",version="1"}} 7
nv_cache_num_hits_per_model{{model="rejection",version="1"}} {runs}
# TYPE rejection_guard_refused_total counter
rejection_guard_refused_total{{reason="invalid"}} {runs}
rejection_guard_refused_total{{reason="full"}} {runs}
"""


def test_the_servers_side_is_what_changed_between_two_readings() -> None:
    before, after = (
        metrics.read(METRICS.format(rows=rows, runs=runs, queue=queue))
        for rows, runs, queue in ((100, 10, 1_000_000), (180, 20, 1_400_000))
    )
    assert sampling.Work("rejection", ["tokenizer", "classifier"]).between(before, after, 2.0) == sampling.Sample(
        time_s=0.0,
        queue_ms=5.0,
        batch_size=8.0,
        executions_per_s=5.0,
        waiting=7.0,
        failed_per_s=17.5,  # half of OTHER, the rejected and what the guard refused for two reasons
        cache_hits_per_s=5.0,
    )


FOUND: dict[str, Any] = {
    "started": "2026-01-02T03:04:05+00:00",
    "target": "the server at <b>",
    "machine": {"processor": "some processor", "cores": 2},
    "settings": {"shape": "knee", "users": "mix", "latency_goal": "p99 at most 200 ms"},
    "generator": {
        "processes": 1, "connections": 4, "cpu_ms_per_request": 0.4, "cpu_share_highest": 0.3, "late_p99_ms": 1.0,
    },
    "queue": {"size": 512, "timeout_s": 0.0},
    "main": {"stage": "confirm 5.0/s", "begin_s": 0.0, "end_s": 2.0},
    "figures": {
        "sent": 10, "answers": 9, "rate": 4.5, "offered": 5.0, "texts_per_s": 4.5, "failures": 10.0,
        "p50": 5.0, "p90": 8.0, "p95": 9.0, "p99": 9.5, "p99.9": 9.9, "p100": 10.0,
    },
    "latency": Histogram([5.0] * 5 + [8.0] * 4).to_text(),
    "kinds": {"single": {"sent": 5, "failures": None, "p50": None, "p90": None, "p99": None}, "long": {
        "sent": 5, "failures": 10.0, "p50": 5.0, "p90": 5.0, "p99": 5.0}},
    "knee": {"rate": 5.0, "upper": 6.0, "is_generator_limit": False, "goal": "p99", "limit_ms": 200.0, "steps": [
        {"rate": 5.0, "answered_rate": 5.0, "latency_ms": 9.5, "failures_percent": 0.0, "is_carried": True,
         "is_confirmation": True, "is_generator_limit": False},
        {"rate": 6.0, "answered_rate": 5.0, "latency_ms": None, "failures_percent": 100.0, "is_carried": False,
         "is_confirmation": False, "is_generator_limit": False},
    ]},
    "check": None,
    "stages": [{"name": "confirm 5.0/s", "begin_s": 0.5, "duration_s": 2.0, "failures": {"UNAVAILABLE": 1},
                "messages": {"UNAVAILABLE": "queue <full>"},
                "figures": {"sent": 10, "rate": 4.5, "p50": 5.0, "p99": 9.5}}],
    "seconds": [
        {"time_s": 0.5 + second, "stage": "confirm 5.0/s", "sent": 5, "answered": 4, "texts": 4, "p50": 5.0, "p90": 8.0,
         "p99": 9.5, "late_p99": 0.5, "failed": {"UNAVAILABLE": 1} if second else {}}
        for second in range(2)
    ],
    "server": [{**vars(sampling.Sample(float(second))), "cpu_cores": 1.0} for second in range(4)],
    "verdicts": [{"wanted": "rate at least 5.0/s", "measured": "4.5/s", "is_met": False}],
    "notes": ["a <note>"],
}  # fmt: skip


def test_the_report_is_one_page_that_asks_no_network_and_breaks_on_no_text(tmp_path: Path) -> None:
    report.write(FOUND, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""src=|\bhref=(?!"#)|@import|url\((?!#)|fetch\(|<script""", text)
    assert "1 of 1 goals not met" in text
    assert "the server at &lt;b&gt;" in text
    assert "queue &lt;full&gt;" in text
    assert "a &lt;note&gt;" in text
    assert text.count("<svg") >= 7
    assert "nothing measured" in text
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == json.loads(json.dumps(FOUND))


def test_the_table_has_a_row_a_second_with_the_servers_side() -> None:
    rows = report.table_of(FOUND)
    assert [row["UNAVAILABLE"] for row in rows] == [0, 1]
    assert all(row["cpu_cores"] == 1.0 for row in rows)


def test_the_terminal_tells_the_knee_the_figures_and_every_verdict() -> None:
    generator = {**FOUND["generator"], "late_p99_ms": 1.0}
    told = console.summary_lines({**FOUND, "generator": generator, "failures": {"UNAVAILABLE": 1}})
    assert told[0] == "highest sustained rate: 5.0 requests/s, the next tried failed at 6.0/s"
    assert told[1].startswith("'confirm 5.0/s': 10 sent, 4.5 answers/s, p50 5 ms")
    assert told[1].endswith("failed 10% UNAVAILABLE 1")
    assert "'confirm 5.0/s': 1 UNAVAILABLE, the first: queue <full>" in told
    assert told[-2:] == ["  NOT MET  rate at least 5.0/s: 4.5/s", "note: a <note>"]


def test_a_report_of_nothing_but_zeros_is_still_a_page() -> None:
    empty = {
        **FOUND,
        "seconds": [],
        "server": [],
        "latency": Histogram().to_text(),
        "knee": None,
        "verdicts": [],
        "stages": [],
    }
    empty["figures"] = {**dict.fromkeys(FOUND["figures"]), "rate": 0.0, "texts_per_s": 0.0, "sent": 0}
    assert "No goals were set" in page.page(empty)
