"""One table turns gRPC status codes into the client's exceptions."""

import pickle
from collections.abc import Sequence

import grpc
import pytest

from rejection_client import (
    AccessDeniedError,
    InvalidInputError,
    NoPositiveLabelError,
    OverloadedError,
    RejectionError,
    ServerUnavailableError,
    errors,
)
from rejection_client._status import NO_VERSION, RULES, Asked, error_from_status, may_pass, says_full
from rejection_server.guard import refusal
from rejection_server.guard.admission import Admission
from rejection_server.guard.contract import part_of

ASKED = Asked("host:8001", "rejection", 2.5)


def test_the_table_has_every_status_code() -> None:
    assert set(RULES) == set(grpc.StatusCode)


def test_every_exception_but_the_root_comes_out_of_the_table() -> None:
    reached = {type(error_from_status(code, "why", ASKED, is_live=True)) for code in grpc.StatusCode}
    reached |= {type(error_from_status(code, "why", ASKED)) for code in grpc.StatusCode}
    assert reached == {getattr(errors, name) for name in errors.__all__} - {RejectionError, NoPositiveLabelError}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
@pytest.mark.parametrize("details", ["the {reason}", ""])
def test_every_message_is_filled_in(code: grpc.StatusCode, details: str) -> None:
    message = str(error_from_status(code, details, ASKED))
    assert "\n" not in message
    assert not message.endswith(".")
    assert not any(hole in message for hole in ("{url}", "{model}", "{timeout_s", "{details}", ": ;"))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        assert "2.5 s" in message
    else:
        assert (details or code.name) in message


def test_unavailable_depends_on_whether_the_server_lives() -> None:
    code = grpc.StatusCode.UNAVAILABLE
    assert type(error_from_status(code, "full", ASKED, is_live=True)) is OverloadedError
    assert type(error_from_status(code, "full", ASKED, is_live=False)) is ServerUnavailableError


def test_a_model_without_a_version_is_unavailable_not_unknown() -> None:
    code, details = grpc.StatusCode.NOT_FOUND, f"Request for unknown model: 'rejection' {NO_VERSION}"
    for is_live in (True, False):
        error = error_from_status(code, details, ASKED, is_live=is_live)
        assert type(error) is ServerUnavailableError
        assert "no version of 'rejection' now" in str(error)


def test_what_may_pass() -> None:
    passing = {(code, words) for code in grpc.StatusCode for words in ("", NO_VERSION) if may_pass(code, words)}
    assert passing == {
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.UNAVAILABLE, NO_VERSION),
        (grpc.StatusCode.NOT_FOUND, NO_VERSION),
    }


def test_a_locked_method_is_no_overload() -> None:
    words = "This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'"
    assert not may_pass(grpc.StatusCode.UNAVAILABLE, words)
    for is_live in (True, False):
        error = error_from_status(grpc.StatusCode.UNAVAILABLE, words, ASKED, is_live=is_live)
        assert type(error) is AccessDeniedError


def test_a_part_is_told_of_its_classifier_and_of_no_credentials() -> None:
    refused = part_of("tone_tokenizer", ("rejection", "tone"))
    error = error_from_status(grpc.StatusCode.PERMISSION_DENIED, refused.sentence, ASKED)
    assert type(error) is AccessDeniedError
    assert str(error).endswith(f"denies access: {refused.sentence}")
    other = error_from_status(grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied", ASKED)
    assert str(other).endswith("check the credentials you send")


@pytest.mark.parametrize(
    ("details", "is_full"),
    [
        ("[request id: 7] in ensemble 'rejection', Exceeds maximum queue size", True),
        ("Request timeout expired", True),
        ("Server is stopping, scheduler for model has stopped accepting new inference requests", False),
        ("Server not ready", False),
        (refusal.stopping().sentence, False),
        ("the server cannot be reached: Connection refused", False),
        ("Socket closed", False),
        ("", False),
    ],
)
def test_only_words_of_a_queue_let_an_earlier_look_count(details: str, is_full: bool) -> None:
    assert says_full(grpc.StatusCode.UNAVAILABLE, details) is is_full
    assert not says_full(grpc.StatusCode.CANCELLED, details)


def test_the_guards_words_of_a_full_queue_are_known() -> None:
    admission = Admission(max_requests=1, max_bytes=1)
    admission.enter()
    for refused in (admission.enter, lambda: admission.hold(2)):
        with pytest.raises(refusal.Refusal) as caught:
            refused()
        assert says_full(grpc.StatusCode.UNAVAILABLE, caught.value.sentence)


@pytest.mark.parametrize(
    ("details", "rows", "row", "named"),
    [
        ("text row 3: not valid UTF-8 at byte 2", None, 3, "text row 3: not"),
        ("in ensemble 'rejection', text row 3: not valid UTF-8", range(128, 192), 131, "text row 131: not"),
        ("[request id: <id_unknown>] text row 0: row 7 is quoted", [64, 90], 64, "input: text row 64: row 7 is quoted"),
        ("text row 1: not valid UTF-8", [3, 77], 77, "text row 77: not"),
        ("text row 9: beyond the request", [3, 77], None, "text row 9: beyond"),
        ("unexpected shape for input 'text'", range(64), None, "unexpected shape"),
        ("arrow 5 and rows 6", range(64), None, "arrow 5 and rows 6"),
    ],
)
def test_the_row_counts_from_the_callers_first_text(
    details: str, rows: Sequence[int] | None, row: int | None, named: str
) -> None:
    error = error_from_status(grpc.StatusCode.INVALID_ARGUMENT, details, ASKED._replace(rows=rows))
    assert isinstance(error, InvalidInputError)
    assert error.row == row
    assert named in str(error)


def test_an_exception_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(InvalidInputError("text row 3: no", 3)))
    assert (str(error), error.row) == ("text row 3: no", 3)
