"""How many requests may wait for the classifier: the rest is refused before any work is done for it.

Triton can bound a queue itself (``max_queue_size``), at a price: a queue with a bound, a timeout or priorities is not
read ahead (``support_prefetching_`` in Triton's ``priority_queue.cc``), and its scheduler looks for an idle instance
only when a request arrives or a batch is taken, else every 500 ms. A request that comes while all instances are busy
then waits after they are idle again. So the queues are unbounded and the bound is kept here, by what Triton itself
counts: ``nv_inference_pending_request_count``.

It is asked seldom. No more can be waiting than it said last plus what has been let through since; as long as that is
within the bound nothing is asked.

A full queue takes up a burst. One that stays full only adds its length to every caller's wait, so after a second of
refusals it is held at half.
"""

import http.client
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit

FULL_S = 0.005
"""How long a full queue is taken for full before Triton is asked again."""
STANDING_S = 1.0
"""After refusing for so long, with no pause of this length, only half as many may wait."""
UNKNOWN_S = 1.0
"""How long after an error Triton is not asked again."""
LATE_S = 0.25
"""How long after an answer that did not come in time Triton is not asked again."""
SILENCE_S = 10.0
"""A server too busy to say how many wait is full. After so long without an answer nobody answers there at all."""
READ_TIMEOUT_S = 0.1

_PENDING = rb'^nv_inference_pending_request_count\{[^}]*model="%b"[^}]*\} (\S+)'


class PendingUnknownError(Exception):
    """Triton's metrics could not be read."""


class PendingLateError(PendingUnknownError):
    """Triton's metrics did not come in time."""


class PendingRequests:
    """Requests that wait for ``model``, by the metrics at ``url``."""

    def __init__(self, url: str, model: str, timeout_s: float = READ_TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
        self._path = parts.path or "/metrics"
        self._sample = re.compile(_PENDING % re.escape(model).encode(), re.MULTILINE)
        self._source = f"{url} for model '{model}'"

    def __call__(self) -> int:
        """The number now, summed over versions; raises PendingUnknownError or PendingLateError."""
        try:
            text = self._text()
        except TimeoutError as error:
            raise PendingLateError(f"{self._source}: {error!r}") from error
        except (OSError, http.client.HTTPException) as error:
            raise PendingUnknownError(f"{self._source}: {error!r}") from error
        counts = self._sample.findall(text)
        if not counts:
            raise PendingUnknownError(f"{self._source}: no nv_inference_pending_request_count")
        return int(sum(map(float, counts)))

    def _text(self) -> bytes:
        while True:
            was_open = self._connection.sock is not None
            try:
                self._connection.request("GET", self._path)
                return self._connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # the next request opens it anew
                # A server may close a connection that was idle for long.
                if not was_open or isinstance(error, TimeoutError):
                    raise


class Admission:
    """Lets requests through as long as at most ``limit`` wait; 0 is no limit.

    ``pending`` tells how many wait and raises PendingUnknownError. While it does, all are let through: a server
    without metrics serves on, without a bound, and ``warn`` is told once. But while the answer is only late
    (PendingLateError, for up to SILENCE_S), nothing is: to let through more is what would keep it late. ``sharers``
    admit side by side without knowing of each other, so each takes its part of the room. ``clock`` gives seconds.
    """

    def __init__(
        self,
        limit: int,
        pending: Callable[[], int],
        *,
        sharers: int = 1,
        warn: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._pending = pending
        self._sharers = sharers
        self._warn = warn
        self._clock = clock
        self._known = 0
        self._since = 0
        self._ask_again_at = self._refused_since = self._refused_last = float("-inf")
        self._late_since: float | None = None
        self._is_unknown = False

    @property
    def refusal(self) -> str:
        """Why a request is refused, for its caller."""
        if self._late_since is not None:
            return (
                "the server is too busy to say how many requests wait, so it takes none for the moment: send this one "
                "again after a while"
            )
        return f"the queue is full: at most {self._limit} requests wait for the classifier"

    def admit(self, count: int) -> int:
        """How many of ``count`` requests that came together may go on; the rest is to be refused."""
        if not self._limit:
            return count
        now = self._clock()
        bound = self._bound(now)
        if self._room(bound) < count and (self._since or now >= self._ask_again_at):
            self._ask(now)
        if self._is_unknown:
            return count
        admitted = min(count, self._room(bound))
        self._since += admitted
        if admitted < count:
            if now - self._refused_last >= STANDING_S:
                self._refused_since = now
            self._refused_last = now
        return admitted

    def _bound(self, now: float) -> int:
        stands = now - self._refused_last < STANDING_S <= now - self._refused_since
        return max(1, self._limit // 2) if stands else self._limit

    def _room(self, bound: int) -> int:
        if self._is_unknown:
            return 0
        # Rounded up: a limit below the number of sharers lets each have one.
        return max(0, -((self._known - bound) // self._sharers) - self._since)

    def _ask(self, now: float) -> None:
        self._since = 0
        try:
            self._known = self._pending()
        except PendingUnknownError as error:
            if self._is_just_late(error, now):
                self._known = self._limit
                self._ask_again_at = now + LATE_S
                return
            self._ask_again_at = now + UNKNOWN_S
            if not self._is_unknown:
                self._is_unknown = True
                self._warn(f"the number of waiting requests is not bounded: cannot read {error}")
            return
        self._ask_again_at = now + FULL_S
        self._late_since = None
        self._is_unknown = False

    def _is_just_late(self, error: PendingUnknownError, now: float) -> bool:
        if not isinstance(error, PendingLateError) or self._is_unknown:
            return False
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since < SILENCE_S
