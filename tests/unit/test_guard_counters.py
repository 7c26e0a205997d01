"""Counts as Prometheus reads them, and whose connection a connection is."""

import re
from dataclasses import replace

import pytest

from rejection_server.guard.answers import BOUNDS_S
from rejection_server.guard.peers import peer_of
from support.guard_snapshot import SNAPSHOT


def samples(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_every_count_is_a_sample_of_a_described_metric() -> None:
    text = SNAPSHOT.prometheus({"guard": 7})
    buckets = {name: value for name, value in samples(text).items() if "duration_seconds_bucket" in name}
    assert {name: value for name, value in samples(text).items() if name not in buckets} == {
        'rejection_guard_requests_total{method="ModelInfer",code="OK"}': "3",
        'rejection_guard_requests_total{method="ModelInfer",code="CANCELLED"}': "1",
        'rejection_guard_requests_total{method="Check",code="OK"}': "2",
        'rejection_guard_inferences_total{model="rejection"}': "3",
        'rejection_guard_refused_total{reason="full"}': "1",
        'rejection_guard_refused_total{reason="invalid"}': "1",
        "rejection_guard_cancelled_total": "1",
        "rejection_guard_received_bytes_total": "1000",
        "rejection_guard_sent_bytes_total": "500",
        "rejection_guard_connections": "4",
        'rejection_guard_requests_under_way{model="rejection"}': "4",
        "rejection_guard_bytes_under_way": "600",
        "rejection_guard_certificate_expires_seconds": "1900000000",
        'rejection_guard_verdicts_total{model="rejection",label="NORMAL"}': "2",
        'rejection_guard_verdicts_total{model="rejection",label="REJECTION"}': "1",
        'rejection_guard_process_memory_bytes{process="guard"}': "7",
        'rejection_request_duration_seconds_sum{model="rejection"}': "61.500000",
        'rejection_request_duration_seconds_count{model="rejection"}': "4",
    }
    # Cumulative, as Prometheus wants them.
    assert list(buckets.values()) == ["0", "2", *["3"] * (len(BOUNDS_S) - 2), "4"]
    assert list(buckets)[1] == 'rejection_request_duration_seconds_bucket{model="rejection",le="0.0025"}'
    assert list(buckets)[-1] == 'rejection_request_duration_seconds_bucket{model="rejection",le="+Inf"}'
    names = {re.sub(r"(?<=_seconds)_\w+$", "", name.partition("{")[0]) for name in samples(text)}
    assert names == {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert text.endswith("\n")


def test_the_end_of_a_certificate_is_a_sample_where_there_is_one() -> None:
    text = replace(SNAPSHOT, certificate_expires=1.7e9 + 0.4).prometheus()
    assert samples(text)["rejection_guard_certificate_expires_seconds"] == "1700000000"


def test_names_are_escaped() -> None:
    text = replace(SNAPSHOT, models={'a"\\\nb': 1}).prometheus()
    assert r'rejection_guard_inferences_total{model="a\"\\\nb"} 1' in text.splitlines()


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("10.0.0.1", 5000), "10.0.0.1"),
        (("::ffff:10.0.0.1", 5000, 0, 0), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::1", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_peer_is_its_address_or_its_network(name: object, peer: str) -> None:
    assert peer_of(name) == peer


def test_counts_of_several_guards_are_added_up() -> None:
    other = replace(SNAPSHOT, calls={"ModelInfer": {"OK": 4}, "Watch": {"OK": 1}}, certificate_expires=1800000000.0)
    both = SNAPSHOT.with_others([other])
    assert both.calls == {"ModelInfer": {"OK": 7, "CANCELLED": 1}, "Check": {"OK": 2}, "Watch": {"OK": 1}}
    assert (both.connections, both.labels["rejection"]["NORMAL"]) == (2 * SNAPSHOT.connections, 4)
    assert both.durations_sum_s == {model: 2 * sum_s for model, sum_s in SNAPSHOT.durations_sum_s.items()}
    assert both.durations == {model: [2 * count for count in of] for model, of in SNAPSHOT.durations.items()}
    assert both.certificate_expires == 1800000000.0
    assert SNAPSHOT.with_others([]) == SNAPSHOT
    without = replace(SNAPSHOT, certificate_expires=None)
    assert without.with_others([without]).certificate_expires is None
