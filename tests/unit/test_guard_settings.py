"""The guard's settings as a line of JSON, and its bounds."""

from pathlib import Path

import pytest

from rejection_server.guard.admission import STANDING_S, Admission
from rejection_server.guard.refusal import Code, Refusal
from rejection_server.guard.settings import GuardSettings, ModelLimits, SettingsError


def test_settings_come_back_as_they_were_written() -> None:
    settings = GuardSettings(
        upstream="127.0.0.1:8001",
        public_models=("rejection", "tone"),
        port=8080,
        tls_cert=Path("a.pem"),
        tls_key=Path("b.pem"),
        receive_timeout_s=3,
        models={"tone": ModelLimits(max_requests=4, max_upstream_requests=2, max_upstream_long=1, read_bytes=512)},
    )
    assert GuardSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not a line of JSON"),
        ("[]", "not a JSON object"),
        (
            '{"upstream": "a:1", "public_models": [], "models": {"b": {"max_requests": 1}}}',
            "missing 2 required keyword-only arguments: 'max_upstream_requests' and 'max_upstream_long'",
        ),
        (
            '{"upstream": "a:1", "public_models": [], "models": {"b": {"max_requests": 1, "max_upstream_requests": 1,'
            ' "max_upstream_long": 1}}}',
            "models has bounds of 'b', which is none of public_models",
        ),
        ('{"upstream": "a:1", "public_models": [], "prot": 1}', "there is no setting 'prot'"),
        ('{"upstream": "a:1"}', "missing 1 required keyword-only argument: 'public_models'"),
        ('{"upstream": "a:1", "public_models": "rejection"}', "setting 'public_models' is 'rejection'"),
        ('{"upstream": "a:1", "public_models": [], "port": "80"}', "setting 'port' is '80'"),
        ('{"upstream": "a:1", "public_models": [], "port": true}', "setting 'port' is True"),
        ('{"upstream": "a", "public_models": []}', "upstream 'a' is neither HOST:PORT nor unix:PATH"),
        ('{"upstream": "a:1", "public_models": [], "tls_key": "k"}', "tls_cert and tls_key belong together"),
        ('{"upstream": "a:1", "public_models": [], "processes": 0}', "processes is 0; at least 1 is needed"),
        ('{"upstream": "a:1", "public_models": [], "processes": 2, "listen_fd": 5}', "share a port, not a socket"),
        (
            '{"upstream": "a:1", "public_models": [], "upstream_metrics": "b:2"}',
            "is neither a URL that begins with http:// nor unix:PATH",
        ),
    ],
)
def test_wrong_settings_are_named(line: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        GuardSettings.from_json(line)


def test_requests_over_the_bound_are_refused_until_one_has_left() -> None:
    admission = Admission(max_requests=2, max_bytes=100)
    admission.enter()
    admission.enter()
    with pytest.raises(Refusal, match="the queue is full: at most 2 requests may be under way") as caught:
        admission.enter()
    assert caught.value.code is Code.UNAVAILABLE
    admission.leave()
    admission.enter()
    assert admission.requests == 2


def test_bytes_over_the_bound_are_refused_and_counted_until_they_are_released() -> None:
    admission = Admission(max_requests=2, max_bytes=3 << 19)
    admission.hold(3 << 19)
    with pytest.raises(Refusal, match=r"the queue is full: at most 1\.5 MiB of requests may be under way"):
        admission.hold(1)
    admission.release((3 << 19) + 1)
    admission.hold(100)
    assert admission.bytes == 100


def test_in_an_overload_that_lasts_half_as_many_may_be_under_way() -> None:
    now = 100.0
    admission = Admission(max_requests=10, max_bytes=100, clock=lambda: now)

    def refusal() -> str:
        with pytest.raises(Refusal) as caught:
            admission.enter()
        return caught.value.sentence

    for _ in range(10):
        admission.enter()
    for later in (0, STANDING_S / 2):
        now += later
        assert "at most 10 requests" in refusal()
    now += STANDING_S / 2
    assert "at most 5 requests" in refusal(), "after a second of refusals"
    for _ in range(6):
        admission.leave()
    admission.enter()
    assert "at most 5 requests" in refusal()
    now += STANDING_S
    for _ in range(5):
        admission.enter()  # after a second without
    assert "at most 10 requests" in refusal()


def test_several_guards_share_the_bounds_out() -> None:
    limits = ModelLimits(max_requests=100, max_upstream_requests=2, max_upstream_long=40, read_bytes=9)
    settings = GuardSettings(
        upstream="a:1", public_models=("a",), models={"a": limits}, processes=4, max_upstream_long=2, port=7
    )
    share = settings.share
    assert (share.processes, share.reuse_port, share.port) == (1, True, 7)
    assert (share.max_requests, share.max_upstream_requests, share.max_connections) == (128, 64, 1024)
    assert share.max_upstream_long == 1, "else nothing long would pass"
    assert share.max_bytes == settings.max_message_bytes, "else the largest request would not"
    assert share.limits("a") == ModelLimits(
        max_requests=25, max_upstream_requests=1, max_upstream_long=10, read_bytes=9
    )
    assert settings.memory_bytes == 4 * share.memory_bytes
