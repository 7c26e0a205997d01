"""Everything a client can be told, in one frozen object that is checked when it is made."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

DEFAULT_URL = "127.0.0.1:8001"

_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")

_DURATION = "a number of seconds above 0"


def _is_duration(seconds: float) -> bool:
    return seconds > 0 and math.isfinite(seconds)


_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "timeout_s backoff_initial_s backoff_max_s check_after_s resolve_every_s keepalive_time_s keepalive_timeout_s",
        _is_duration,
        _DURATION,
    ),
    ("outage_s", lambda seconds: seconds is None or _is_duration(seconds), f"{_DURATION}, or None"),
    ("max_concurrent_requests max_attempts", lambda count: count >= 1, "1 or more"),
    ("max_texts_per_request", lambda count: count is None or count >= 1, "1 or more, or None"),
    (
        "max_send_bytes max_receive_bytes",
        lambda size: size is None or 0 < size < 2**31,
        "a number of bytes above 0 and below 2 GiB, or None",
    ),
    ("retry_ratio", lambda share: 0 <= share <= 1, "a share from 0 to 1"),
    ("retry_reserve", lambda count: count >= 0, "0 or more retries"),
    ("compression", ("none", "deflate", "gzip").__contains__, "one of none, deflate, gzip"),
    ("model", bool, "the model's name on the server, such as 'rejection'"),
)
"""Fields, what their values must be, and how to say so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Encrypted connections; with a certificate of the client's own, mutual TLS. Files are PEM, read once."""

    ca_path: str | Path | None = None
    """Certificates that the server's must descend from; None takes those that gRPC brings along."""

    certificate_path: str | Path | None = None
    """The client's own certificate chain, for mutual TLS; goes with `private_key_path`."""

    private_key_path: str | Path | None = None
    """Key of the client's certificate."""

    server_name: str | None = None
    """Name the server's certificate must carry; None takes the host in the address."""

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        if (self.certificate_path is None) != (self.private_key_path is None):
            raise ValueError("certificate_path and private_key_path go together: give both, or neither")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientConfig:
    """How a client behaves; `dataclasses.replace` makes a changed copy. Raises ValueError for what cannot be."""

    model: str = "rejection"
    """Name under which the server has the classifier."""

    positive_label: str | None = None
    """The label that means a rejection, by its name on the server; None takes the one that the server names. Without
    either there is no `Prediction.score` and no `is_rejection`."""

    timeout_s: float = 10.0
    """Deadline of each request, seconds from its start to its answer with every retry in between. Calls that take
    many texts make many requests, and each has this long."""

    outage_s: float | None = None
    """Seconds that a request waits beyond its deadline for a server that was there and is gone, as during a restart;
    once one is back the request has its whole `timeout_s` again. None waits no longer than the deadline."""

    max_concurrent_requests: int = 4
    """Requests that `classify_many`, `stream` and `classify_document` have under way at once."""

    max_texts_per_request: int | None = None
    """Texts in one request at most; None, or more than the server takes, means as many as the server takes."""

    max_attempts: int = 3
    """Times that one request is sent at most while servers refuse it as overloaded; 1 never sends again."""

    retry_ratio: float = 0.05
    """Refused requests that may be sent again, as a share of all requests: what keeps retries from feeding an
    overload. 0.05 is one in twenty."""

    retry_reserve: int = 3
    """Retries that may be made beyond `retry_ratio` before it counts, so that a lone refusal is always retried."""

    backoff_initial_s: float = 0.1
    """Pause before the first retry, seconds; doubles with each further one. A random half of it is left out."""

    backoff_max_s: float = 2.0
    """Longest pause, seconds, between two retries or between two looks at a server that does not answer."""

    check_after_s: float = 1.0
    """With several servers: seconds without an answer after which the server is asked whether it is alive. One that
    is gets more time; the request of one that is not goes to another."""

    resolve_every_s: float = 30.0
    """Seconds after which a name is looked up again, so that servers added later get requests."""

    keepalive_time_s: float = 310.0
    """Seconds of silence during a call after which the connection is tested. Triton's defaults take one test in 300 s
    and close connections that test more often."""

    keepalive_timeout_s: float = 5.0
    """Seconds without a sign of the other end after which a connection with unanswered data counts as broken."""

    tls: Tls | None = None
    """Encryption; None talks in the clear."""

    token: str | None = field(default=None, repr=False)
    """Sent with every call as `authorization: Bearer TOKEN`; without `tls` it can be read on the way."""

    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every call, names in lower case."""

    context: Callable[[], Mapping[str, str]] | None = None
    """Asked before every call for metadata of that moment, such as the W3C trace context (`traceparent`).

    None sends that of the current OpenTelemetry trace, if the application has one."""

    max_send_bytes: int | None = None
    """Largest message sent; None leaves it to the server, which states its limit."""

    max_receive_bytes: int | None = None
    """Largest message taken; None takes any."""

    compression: Literal["none", "deflate", "gzip"] = "none"
    """Of what is sent; short texts grow by it, long ones shrink to about half."""

    def __post_init__(self) -> None:
        """Check every value."""
        for names, fits, wanted in _CHECKS:
            for name in names.split():
                value = getattr(self, name)
                if not fits(value):
                    raise ValueError(f"{name} is {value!r}; give {wanted}")
        # Names and values fail here, with their reason, and not inside gRPC at the first call.
        checked_metadata(self.metadata)
        if self.token is not None:
            checked_metadata({"authorization": self.token})


def read_token(path: str | Path) -> str:
    """The token in a file, on its first line that is not empty; raises ValueError if there is none to be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the token file {path} cannot be read: {getattr(error, 'strerror', 'it is no text')}"
        ) from error
    if not lines:
        raise ValueError(f"the token file {path} is empty; write a token into it")
    return lines[0]


def check_timeout(timeout_s: float) -> float:
    """`timeout_s` itself, if it is a deadline; raises ValueError otherwise."""
    if not _is_duration(timeout_s):
        raise ValueError(f"timeout_s is {timeout_s!r}; give {_DURATION}")
    return timeout_s


def checked_metadata(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Metadata as gRPC takes it, names in lower case; raises ValueError for a name or value that HTTP/2 refuses."""
    pairs = []
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name.lower()) or name.lower().startswith("grpc-") or name.endswith("-bin"):
            raise ValueError(
                f"metadata name {name!r} cannot be sent; use letters, digits, '_', '.' and '-', no 'grpc-' in front "
                "and no '-bin' at the end"
            )
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of metadata '{name}' cannot be sent; use printable ASCII characters")
        pairs.append((name.lower(), value))
    return tuple(pairs)
