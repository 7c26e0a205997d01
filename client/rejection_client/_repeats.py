"""Equal texts of one stream are sent once: what is known of the answers so far, and of those still to come."""

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


@dataclass(slots=True, eq=False)
class Answer:
    """What comes of one text, for every place in the stream where it stands."""

    index: int
    """The first of these places."""
    read_s: float
    prediction: Prediction | None = None
    error: RejectionError | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is there."""
        return self.prediction is not None or self.error is not None

    def result(self, index: int, text: str) -> Result:
        """The result for one place; an error that names the text's row names this one."""
        error = self.error
        if isinstance(error, InvalidInputError) and error.row is not None and error.row != index:
            error = InvalidInputError(ROW.sub(f"row {index}", str(error), count=1), index)
            error.__cause__ = self.error
        return Result(index, text, self.prediction, error)


class Repeats:
    """The texts of a stream so far, as far as they are remembered; only the stream's reader uses it."""

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
        if found is not None and found.error is None and now_s - found.read_s < FRESH_S:
            self._answers.move_to_end(key)
            return found, False
        answer = Answer(index, now_s)
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > MOST:
            self._answers.popitem(last=False)
        return answer, True
