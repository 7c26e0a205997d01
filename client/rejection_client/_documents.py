"""A long text in parts that the model reads whole: overlapping windows, or sentences; no network here.

The client has no tokenizer, and needs none: the server counts each part's tokens. The first part asked for shows how
many characters make a token; windows are cut to fit by that, at white space; and what proves too long is cut again, by
its own count. So no part that counts was truncated, and every character is in one that counts.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from rejection_client._prediction import Unit
from rejection_client.errors import InvalidInputError

Span = tuple[int, int]

UNITS = ("windows", "sentences")
FIRST_CHARACTERS_PER_TOKEN = 8
"""More than most texts have, so that a text shorter than this is asked for whole at once."""
LONGEST_SENTENCE_CHARACTERS_PER_TOKEN = 16
FILL = 0.95
"""How much of the limit a window aims at: tokens are not spread evenly."""


class Splitter:
    """Cuts one text into the parts to classify.

    Start with `first_spans`; give the parts that `is_whole` denies to `next_spans`, until that returns nothing. Raises
    ValueError for an unknown `unit` or an `overlap` (the share of a window that is also in the next) outside 0 to 0.9.
    """

    def __init__(self, text: str, unit: str, overlap: float, limit: int) -> None:
        if not isinstance(text, str):
            raise TypeError(f"text is of type {type(text).__name__}, not str")
        check_options(unit, overlap)
        self._text = text
        self._unit = unit
        self._overlap = overlap
        self._limit = limit
        self._sampling = False

    def first_spans(self) -> list[Span]:
        """What to classify first."""
        if self._unit == "sentences":
            return [part for span in sentence_spans(self._text) for part in self._bounded(span)]
        length = min(len(self._text), FIRST_CHARACTERS_PER_TOKEN * self._limit)
        self._sampling = length < len(self._text)
        return [(0, length)]

    def is_whole(self, unit: Unit) -> bool:
        """Whether the model read all of the part, and the part counts."""
        return not self._sampling and unit.prediction.token_count <= self._limit

    def next_spans(self, refused: Sequence[Unit]) -> list[Span]:
        """The parts that the refused ones are cut into."""
        spans: list[Span] = []
        for unit in refused:
            start, end = unit.start, unit.end
            fitting = int((end - start) * FILL * self._limit / unit.prediction.token_count)
            if self._sampling:  # only a sample: its measure goes for the whole text
                end = len(self._text)
            elif end - start <= 1:
                raise InvalidInputError(
                    f"a limit of {self._limit} tokens leaves no room for a character beside the special tokens; "
                    "give a larger max_length"
                )
            else:
                fitting = min(fitting, end - start - 1)
            spans += windows(self._text, (start, end), max(1, fitting), self._overlap)
        self._sampling = False
        return spans

    def _bounded(self, span: Span) -> Iterator[Span]:
        """The sentence, or windows of one so long that it would not even be accepted."""
        if span[1] - span[0] <= LONGEST_SENTENCE_CHARACTERS_PER_TOKEN * self._limit:
            yield span
        else:
            yield from windows(self._text, span, FIRST_CHARACTERS_PER_TOKEN * self._limit // 2, self._overlap)


def check_options(unit: str, overlap: float) -> None:
    """Raise ValueError for what `Splitter` cannot do."""
    if unit not in UNITS:
        raise ValueError(f"unit is '{unit}'; give one of {', '.join(UNITS)}")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap is {overlap}; give a share of a window from 0 to 0.9")


def windows(text: str, span: Span, size: int, overlap: float) -> Iterator[Span]:
    """Cut a span into windows of at most `size` characters that overlap, between words where there are any."""
    start, end = span
    while True:
        stop = min(start + size, end)
        if stop < end:
            stop = _word_end(text, start + (stop - start) // 2 + 1, stop)
        yield start, stop
        if stop >= end:
            return
        wanted = stop - int(overlap * (stop - start))
        start = max(start + 1, _word_start(text, start + (stop - start) // 2, wanted, stop))


def _word_end(text: str, earliest: int, latest: int) -> int:
    """The last place from `earliest` to `latest` where a word ends, else `latest`."""
    for place in range(latest, earliest - 1, -1):
        if text[place].isspace() and not text[place - 1].isspace():
            return place
    return latest


def _word_start(text: str, earliest: int, wanted: int, latest: int) -> int:
    """The first place after `wanted`, else the last before it, where a word starts, else `wanted` itself."""
    if wanted == latest:
        return wanted
    for place in itertools.chain(range(wanted, latest), range(wanted - 1, earliest, -1)):
        if text[place - 1].isspace() and not text[place].isspace():
            return place
    return wanted


def sentence_spans(text: str) -> list[Span]:
    """Where the sentences of a text are, by the Punkt algorithm with NLTK's English model; at least one span."""
    return list(_punkt()(text)) or [(0, len(text))]


@functools.cache
def _punkt() -> Callable[[str], Iterator[Span]]:
    import punkt  # loaded at first use: it takes a tenth of a second

    return punkt.tokenizer_for("english").span_tokenize
