"""The command's own logic: rates from metrics, and what it says about a wrong command line."""

import re
import socket

import pytest

from rejection_client._metrics import activity, parse, refusals, table
from rejection_client.cli import main

METRICS = """
# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="m",version="1"} %d
nv_inference_request_failure{model="m",reason="REJECTED",version="1"} %d
nv_inference_request_failure{model="m",reason="OTHER",version="1"} %d
nv_inference_count{model="m",version="1"} %d
nv_inference_exec_count{model="m",version="1"} %d
nv_inference_request_duration_us{model="m",version="1"} %d
nv_inference_queue_duration_us{model="m",version="1"} %d
nv_inference_pending_request_count{model="m",version="1"} 3
nv_cpu_utilization 0.5
rejection_guard_refused_total{reason="full"} %d
rejection_guard_refused_total{reason="invalid"} 1
"""


def test_activity_is_the_difference_of_two_readings() -> None:
    before = parse(METRICS % (10, 0, 2, 20, 10, 0, 0, 0))
    after = parse(METRICS % (110, 5, 8, 420, 60, 500_000, 100_000, 3))
    (row,) = activity(before, after, 2.0)
    assert (row.model, row.requests_per_s, row.failures_per_s, row.texts_per_s) == ("m", 50, 4, 200)
    assert (row.latency_ms, row.queue_ms, row.batch_size, row.waiting) == (5, 1, 8, 3)
    refused = refusals(before, after, 2.0)
    assert refused == {"full": 1.5, "invalid": 0}
    header, line, last = table([row], refused).splitlines()
    assert last == "refused before Triton: 1.5/s, full 1.5"
    assert len(table([row], {}).splitlines()) == 2
    assert header.split()[:4] == ["MODEL", "REQUESTS/S", "FAILED/S", "TEXTS/S"]
    assert line.split() == ["m", "50.0", "4.0", "200.0", "5.0", "1.0", "8.0", "3"]


def test_activity_of_an_idle_and_of_a_restarted_server() -> None:
    reading = parse(METRICS % (10, 0, 2, 20, 10, 100, 0, 1))
    (idle,) = activity(reading, reading, 1.0)
    assert (idle.requests_per_s, idle.latency_ms, idle.batch_size) == (0, None, None)
    (restarted,) = activity(more := parse(METRICS % (1000, 0, 2, 2000, 10, 100, 0, 5)), reading, 1.0)
    assert restarted.requests_per_s == 10
    assert refusals(more, reading, 1.0) == {"full": 1, "invalid": 1}
    assert activity({}, {}, 1.0) == []
    assert refusals({}, {}, 1.0) == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["clasify", "x"], "clasify"),
        (["classify", "--timeout", "0", "x"], "'0' is not a number of seconds above 0"),
        (["classify", "--timeout", "inf", "x"], "'inf' is not a number of seconds above 0"),
        (["classify", "--max-length", "0", "x"], "'0' is not a number from 1 up"),
        (["classify", "--output", "xml", "x"], "xml"),
        (["classify", "--threshold", "high", "x"], "'high' is not a number"),
        (["classify", "--delimiter", "::", "x"], "'::' is not one character"),
        (["classify", "--field", "a", "--parquet", "b"], "not allowed with"),
        (["classify", "--jsonl", "a", "--csv", "b"], "not allowed with"),
        (["classify", "--cert", "client.pem", "x"], "go together"),
        (["classify", "--ca", "/no/ca.pem", "x"], "ca_path /no/ca.pem cannot be read"),
        (["classify", "--model", "a", "--all-models", "x"], "not allowed with"),
        (["classify", "--all-models", "--resume", "--output-file", "/no/x.csv", "x"], "goes with one --model: all are"),
        (["classify", "--resume", "x"], "--resume goes on with a file of results"),
        (["classify", "--output", "parquet", "x"], "Parquet is written to a file only"),
        (["classify", "--output-file", "/no/x", "x"], "does not tell its form"),
        (["classify", "--output-file", "/no/x.csv", "--output", "parquet", "x"], "cannot be written as parquet"),
        (["classify", "--output-file", "/no/x.csv", "--output-file", "/no/y.csv", "x"], "--output-file is given twice"),
        (["classify", "--delimiter", ";", "x"], "give --csv COLUMN too"),
        (["classify", "--file", "a.txt", "x"], "both as arguments and in files"),
        (["classify", "--csv", "a", "x"], "--csv says how files are read"),
        (["classify", "--field", "a", "--field", "b"], "--field is given twice"),
        (["document", "--model", "a", "--model", "b"], "--model is given twice"),
        (["health", "--url", "a:1", "--url", "b:1"], "--url is given twice"),
        (["watch", "--metrics", "http://a/", "--metrics", "http://b/"], "--metrics is given twice"),
        (["document", "--unit", "words"], "words"),
        (["watch", "--interval", "-1"], "'-1' is not a number of seconds"),
        (["classify", "--out", "jsonl", "x"], "--out"),
        (["classify", "--url", "http://127.0.0.1:8001", "x"], "has a scheme"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["classify"], ["document"], ["health"], ["info"], ["watch"]])
def test_help_teaches_with_examples_and_exit_codes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert arguments not in ([], ["classify"]) or len(re.findall(r"^  .*rejection \w+ ", out, flags=re.MULTILINE)) >= 5
    assert all(f"\n  {code:<4} " in out for code in (0, 1, 2, 3, 130, 141))


def test_no_server_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("REJECTION_URL", address)
    assert main(["classify", "text"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rejection: cannot reach {address}: ")
    assert err.count("\n") == 1
