"""Goals: what may be typed, and what meets them."""

import pytest

from load import goals

FIGURES = {"p99": 180.0, "p50": 20.0, "failures": 0.05, "rate": 49.9, "answers": 500.0}


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("p99=200ms", True),
        ("p99=0.18s", True),
        ("p99=179ms", False),
        ("failures=0.1%", True),
        ("failures=0.01%", False),
        ("rate=50", False),
        ("rate=49.5/s", True),
        ("answers=500", True),
        ("answers=501", False),
    ],
)
def test_a_goal_is_met_or_not(text: str, is_met: bool) -> None:
    assert goals.judge(goals.parse(text), FIGURES).is_met is is_met


@pytest.mark.parametrize(
    "text", ["p99", "p99=200", "p99=fast", "failures=1", "rate=5ms", "p100=1ms", "answers=1.5", "latency=5ms", ""]
)
def test_what_is_no_goal_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="goal"):
        goals.parse(text)


def test_nothing_measured_meets_no_goal() -> None:
    assert not goals.judge(goals.parse("p99=200ms"), {"p99": None}).is_met
    assert not goals.judge(goals.parse("failures=100%"), {"failures": None}).is_met
