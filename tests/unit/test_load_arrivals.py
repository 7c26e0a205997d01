"""Arrival times: as many as the profile says, where it says, for any number of workers."""

import itertools
import random

import pytest

from load import arrivals, shapes

PROFILES = {
    "steady": [(0.0, 37.0), (21.0, 37.0)],
    "ramp": [(0.0, 2.0), (30.0, 20.0)],
    "spike": shapes.profile("spike", 5.0, 30.0),
    "overload": shapes.profile("overload", 4.0, 12.0),
    "down to nothing": [(0.0, 20.0), (10.0, 0.0)],
}


@pytest.mark.parametrize("spacing", ["poisson", "constant"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_workers_together_send_exactly_what_the_profile_says(
    profile: arrivals.Profile, workers: int, spacing: arrivals.Spacing
) -> None:
    shares = [
        list(arrivals.arrivals(profile, spacing, random.Random(n), worker=n, workers=workers)) for n in range(workers)
    ]
    assert sum(map(len, shares)) == arrivals.expected(profile)
    for share in shares:
        assert share == sorted(share)
        assert all(0 <= time_s <= arrivals.duration_s(profile) for time_s in share)


def test_constant_arrivals_of_all_workers_are_evenly_spaced() -> None:
    profile = [(0.0, 10.0), (5.0, 10.0)]
    times = sorted(
        time_s
        for worker in range(4)
        for time_s in arrivals.arrivals(profile, "constant", random.Random(0), worker=worker, workers=4)
    )
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([0.1] * 49)


def test_poisson_gaps_vary_as_independent_callers_do() -> None:
    times = list(arrivals.arrivals([(0.0, 500.0), (20.0, 500.0)], "poisson", random.Random(3)))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 / mean == pytest.approx(1.0, abs=0.05)  # 0 if evenly spaced


def test_a_spike_is_where_it_should_be() -> None:
    times = list(arrivals.arrivals(shapes.profile("spike", 5.0, 30.0), "poisson", random.Random(1)))
    assert sum(10 <= time_s < 20 for time_s in times) == 500
    assert sum(time_s < 10 for time_s in times) == 50


def test_a_ramp_sends_more_late_than_early() -> None:
    times = list(arrivals.arrivals([(0.0, 0.0), (10.0, 20.0)], "constant", random.Random(0)))
    assert sum(time_s < 5.001 for time_s in times) == 25
    assert len(times) == 100


def test_a_spike_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="give it 12 s or more"):
        shapes.profile("spike", 5.0, 8.0)
