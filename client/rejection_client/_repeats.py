"""Equal texts of one stream or call are sent once: what is known of the answers so far, and of those still to come."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic
from typing import Any

from rejection_client import protocol
from rejection_client._prediction import Prediction, Result
from rejection_client.errors import ROW, InvalidInputError, RejectionError

MOST = 10_000
"""Different texts whose answers are remembered: some 5 MB."""
FRESH_S = 60.0
"""Seconds for which an answer counts: a stream may be endless, and the server may get another model meanwhile."""


Found = Prediction | RejectionError
"""What a model makes of a text."""


@dataclass(slots=True, eq=False)
class Answer:
    """What comes of one text, for every place where it stands."""

    index: int
    """The first of these places."""
    read_s: float
    found: tuple[Found, ...] = ()
    """By each model that was asked, once it is there."""

    @property
    def has_failed(self) -> bool:
        """Whether a model has no prediction."""
        return any(isinstance(found, RejectionError) for found in self.found)

    def results(self, index: int, text: str) -> list[Result]:
        """The results for one place, a model each; an error that names the text's row names this one."""
        return [
            Result(index, text, None, _of_row(found, index))
            if isinstance(found, RejectionError)
            else Result(index, text, found)
            for found in self.found
        ]


def _of_row(error: RejectionError, index: int) -> RejectionError:
    if not isinstance(error, InvalidInputError) or error.row in (None, index):
        return error
    other = InvalidInputError(ROW.sub(f"row {index}", str(error), count=1), index)
    other.__cause__ = error
    return other


class Repeats:
    """The texts so far, as far as they are remembered; only one reader uses it."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def answer_of(self, text: Any, index: int) -> tuple[Answer, bool]:
        """The answer that this text has or waits for, and whether that is a new one, which somebody has to ask for.

        Raises TypeError for what is no text. An error goes to those who wait for it, and the text is asked for anew.
        """
        # Digests, so that long texts are not kept.
        key = hashlib.blake2b(
            protocol.checked_text(text, index).encode(errors="surrogatepass"), digest_size=16
        ).digest()
        now_s = monotonic()
        found = self._answers.get(key)
        if found is not None and not found.has_failed and now_s - found.read_s < FRESH_S:
            self._answers.move_to_end(key)
            return found, False
        answer = Answer(index, now_s)
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > MOST:
            self._answers.popitem(last=False)
        return answer, True
