"""When a refused request may be sent again: pure rules, no clock and no network."""

import random
import threading


class RetryBudget:
    """A bucket of retries that requests fill and retries empty; threads may share it.

    Every request adds `ratio` of a retry, every retry takes a whole one, and the bucket, full at first, holds
    `reserve` beyond what the requests bring: of n requests at most `reserve + n * ratio` are sent again. Under a
    lasting overload the extra load is therefore `ratio`, however many requests are refused.
    """

    def __init__(self, ratio: float, reserve: int) -> None:
        self._ratio = ratio
        self._capacity = float(max(reserve, 1 if ratio > 0 else 0))
        self._left = float(reserve)
        self._lock = threading.Lock()

    def add_request(self) -> None:
        """Count a request that is sent for the first time."""
        with self._lock:
            self._left = min(self._capacity, self._left + self._ratio)

    def take_retry(self) -> bool:
        """Take one retry, if there is one."""
        with self._lock:
            # Twenty additions of 0.05 must come to 1.
            if self._left < 1 - 1e-9:
                return False
            self._left -= 1
            return True


def backoff_s(failures: int, initial_s: float, max_s: float) -> float:
    """Seconds to wait after so many failures (1 or more): doubling, capped, and a random part of the upper half off.

    Clients that failed together so come back apart.
    """
    pause_s = min(max_s, initial_s * 2.0 ** min(failures - 1, 30))
    return pause_s * random.uniform(0.5, 1.0)
