"""A short load on the real server by scripts/loadtest's own command: goals on counts and failures, never on time."""

import csv
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient

from load import target
from rejection_server.host import Server
from rejection_server.host.sizing import usable_cores
from support.repository import REPOSITORY, ROOT


def loadtest(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "load.cli", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str], timeout_s: float = 150) -> tuple[int, str]:
    output, _ = process.communicate(timeout=timeout_s)
    return process.returncode, output


def result_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*/result.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def on(server: Server) -> tuple[str, ...]:
    return "--url", server.grpc_address, "--metrics", str(server.metrics_address)


def test_twenty_seconds_of_mixed_load_are_all_answered(server: Server, tmp_path: Path) -> None:
    code, output = finish(
        loadtest(
            *on(server), "--shape", "steady", "--users", "mix", "--rate", 4, "--duration", 20, "--timeout", 60,
            "--processes", 2, "--goal", "answers=80", "--goal", "failures=0%", "--output", tmp_path,
        )
    )  # fmt: skip
    assert code == 0, output
    found = result_of(tmp_path)
    assert found["figures"]["sent"] == found["figures"]["answers"] == 80
    assert found["generator"]["processes"] == 2
    assert sum(kind["sent"] for kind in found["kinds"].values()) == 80
    assert found["kinds"].keys() >= {"single", "batch", "stream", "long"}
    assert sum(row["sent"] for row in found["seconds"]) == 80
    # The server saw as many, by its own account, and its processes were looked at.
    texts = sum(row["texts"] for row in found["seconds"])
    executed = sum((s["executions_per_s"] or 0) * (s["batch_size"] or 0) for s in found["server"])
    assert executed > 0
    assert texts >= 80
    assert any(sample["memory_mib"] for sample in found["server"])
    (table,) = tmp_path.glob("*/seconds.csv")
    assert sum(int(row["sent"]) for row in csv.DictReader(table.open(encoding="utf-8"))) == 80
    (page,) = tmp_path.glob("*/report.html")
    assert "All goals met" in page.read_text(encoding="utf-8")


def test_locusts_own_command_serves_its_web_page_and_counts_every_kind(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        *(sys.executable, "-m", "locust", "-f", ROOT / "tests" / "load" / "locustfile.py"),
        *("--host", server.grpc_address, "--web-host", "127.0.0.1", "--web-port", port, "--autostart", "--autoquit", 1),
        *("--users", 10, "--spawn-rate", 10, "--run-time", "6s", "--csv", tmp_path / "locust"),
        *("--stop-timeout", 60),  # each user's request is answered, however busy the machine is
    ]
    process = subprocess.Popen([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    page = page_of(f"http://127.0.0.1:{port}/", process)
    code, output = finish(process, 60)
    assert code == 0, output
    assert server.grpc_address in page
    rows = list(csv.DictReader((tmp_path / "locust_stats.csv").open(encoding="utf-8")))
    kinds = {row["Name"]: row for row in rows}
    assert kinds.keys() == {"single", "batch", "stream", "long", "Aggregated"}
    assert all(row["Failure Count"] == "0" for row in rows)
    # Two float32 outputs, a token count and names for each text: no answer is empty, a batch's has 16 texts.
    assert 100 < float(kinds["single"]["Average Content Size"]) < float(kinds["batch"]["Average Content Size"])


def page_of(url: str, process: subprocess.Popen[str]) -> str:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.1)
    raise AssertionError(process.communicate()[0])


def test_failures_are_named_by_their_code_and_goals_that_are_missed_decide(server: Server, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "x" * (2**20 + 1)}) + "\n", encoding="utf-8")
    code, output = finish(
        loadtest(
            *on(server), "--shape", "steady", "--rate", 5, "--duration", 2, "--timeout", 60, "--texts", texts,
            "--goal", "failures=0%", "--output", tmp_path,
        )
    )  # fmt: skip
    assert code == 1, output
    assert result_of(tmp_path)["failures"] == {"INVALID_ARGUMENT": 10}
    assert "NOT MET" in output


def test_ctrl_c_writes_the_report_of_what_was_measured(server: Server, tmp_path: Path) -> None:
    process = loadtest(*on(server), "--shape", "steady", "--rate", 5, "--duration", 600, "--output", tmp_path)
    seen = ""
    assert process.stdout is not None
    while not re.search(r"answered [1-9]", seen):  # progress: a whole second has its answers
        line = process.stdout.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert result_of(tmp_path)["figures"]["sent"] > 0
    assert "interrupted" in output


def test_another_machine_is_not_loaded_by_mistake(tmp_path: Path) -> None:
    code, output = finish(loadtest("--url", "192.0.2.7:8001", "--shape", "steady", "--rate", 5, "--output", tmp_path))
    assert code == 2
    assert "--yes" in output


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    code, output = finish(
        loadtest("--url", "127.0.0.1:1", "--shape", "steady", "--rate", 5, "--timeout", 5, "--output", tmp_path)
    )
    assert code == 1
    assert "127.0.0.1:1 does not answer a first request: UNAVAILABLE" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--url", "no-such-name.invalid:1", "--yes"), "'no-such-name.invalid' cannot be looked up"),
        (("--url", "127.0.0.1:1", "--ca", "/nowhere.pem"), "ca_path /nowhere.pem cannot be read"),
    ],
)
def test_what_cannot_be_connected_to_is_told_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, output = finish(loadtest(*arguments, "--shape", "steady", "--rate", 5, "--output", tmp_path))
    assert code == 1
    assert sentence in output
    assert len(output.splitlines()) == 1


def test_the_embedded_server_has_instances_for_the_cores_of_the_machine(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY, repository)
    config = repository / "classifier" / "config.pbtxt"
    text, changed = re.subn(r"(KIND_CPU\s+count:) \d+", rf"\1 {usable_cores() + 1}", config.read_text(encoding="utf-8"))
    assert changed == 2
    config.write_text(text, encoding="utf-8")
    with target.embedded(repository) as embedded, InferenceServerClient(embedded.url) as client:
        groups = client.get_model_config("classifier").config.instance_group
    assert sum(group.count for group in groups) == usable_cores()
