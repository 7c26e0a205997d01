"""Counts of a guard, each of which has a value."""

from rejection_server.guard import Snapshot
from rejection_server.guard.answers import BOUNDS_S

SNAPSHOT = Snapshot(
    calls={"ModelInfer": {"OK": 3, "CANCELLED": 1}, "Check": {"OK": 2}},
    models={"rejection": 3},
    refused=2,
    refused_by={"full": 1, "invalid": 1},
    cancelled=1,
    received_bytes=1000,
    sent_bytes=500,
    connections=4,
    under_way=5,
    under_way_by={"rejection": 4},
    under_way_bytes=600,
    certificate_expires=1900000000.4,
    labels={"rejection": {"NORMAL": 2, "REJECTION": 1}},
    durations={"rejection": [0, 2, 1, *[0] * (len(BOUNDS_S) - 3), 1]},
    durations_sum_s={"rejection": 61.5},
)
