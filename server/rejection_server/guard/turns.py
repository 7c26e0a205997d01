"""The event loop of a guard's process: what one turn has put together goes out in one write a connection."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

__all__ = ["TurnLoop"]

AFTER_FLUSH_S = 0.01
"""Longest wait after a flush: what it asked the loop to do (to close a connection, for example) is due by then."""


class _Selector(selectors.DefaultSelector):
    """Flushes what is due just before the loop waits."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Callable[[], None]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Flush, then wait."""
        if self.due:
            while self.due:
                self.due.pop()()
            timeout = AFTER_FLUSH_S if timeout is None else min(timeout, AFTER_FLUSH_S)
        return super().select(timeout)


class TurnLoop(asyncio.SelectorEventLoop):
    """An event loop that calls what was given to `at_turns_end` before it waits, without a turn of its own for it."""

    def __init__(self) -> None:
        selector: Any = _Selector()
        super().__init__(selector)
        self.at_turns_end: Callable[[Callable[[], None]], None] = selector.due.append
        """Takes a function that does not raise."""
