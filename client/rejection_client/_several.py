"""A text asked of several models of one server: what is sent, and what comes back by each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rejection_client._prediction import Result
from rejection_client._repeats import Found, Repeats
from rejection_client.errors import RejectionError

if TYPE_CHECKING:
    from rejection_client._core import Core
    from rejection_client._stream import Ask
    from rejection_client._transport import Call

SMALLEST_SHARE = 8
"""Texts below which a request is not divided: what a batch gains on a CPU, it gains with so many rows."""

SideBySide = Callable[[Iterable[Coroutine[Any, Any, Any]]], Awaitable[list[Any]]]
"""Gives what comes of coroutines, in order, as many of which run at once as may."""


def share(texts: int, requests: int) -> int:
    """Texts in each of about so many requests.

    With Triton's C++ backend a request runs on one instance of the model: all texts in one leave the others idle.
    """
    return max(SMALLEST_SHARE, -(-texts // requests))


async def classify_all(
    cores: Mapping[str, Core], texts: Sequence[str], call: Call, side_by_side: SideBySide, concurrency: int
) -> dict[str, list[Result]]:
    """The results for texts by each model; equal texts are sent once to each."""
    repeats = Repeats()
    answers, rows = [], []
    for row, text in enumerate(texts):
        answer, is_new = repeats.answer_of(text, row)
        answers.append(answer)
        rows += [row] if is_new else []
    found: dict[str, dict[int, Found]] = {}
    parts: list[tuple[int, str, list[int]]] = []
    for name, size in (await _sizes(cores, call, side_by_side)).items():
        if isinstance(size, RejectionError):
            found[name] = dict.fromkeys(rows, size)
            continue
        found[name] = {}
        step = min(size, share(len(rows) * len(cores), concurrency))
        parts += [(first, name, rows[first : first + step]) for first in range(0, len(rows), step)]
    parts.sort(key=lambda part: part[0])  # no model waits until another has had all texts
    asked = side_by_side(cores[name].each([texts[row] for row in part], part, call) for _, name, part in parts)
    for (_, name, part), of_part in zip(parts, await asked, strict=True):
        found[name].update(zip(part, of_part, strict=True))
    results = []
    for row, (answer, text) in enumerate(zip(answers, texts, strict=True)):
        answer.found = tuple(found[name][answer.index] for name in cores)
        results.append(answer.results(row, text))
    return {name: [of_text[place] for of_text in results] for place, name in enumerate(cores)}


async def asking(cores: Mapping[str, Core], call: Call, side_by_side: SideBySide) -> tuple[Ask, int]:
    """What a stream asks of all models, and with how many texts in a request; raises a RejectionError if none answers.

    Within a request of the stream the models are asked in turn: the stream has others under way meanwhile.
    """
    sizes = (await _sizes(cores, call, side_by_side)).values()
    known = [size for size in sizes if isinstance(size, int)]
    if not known:
        raise next(size for size in sizes if isinstance(size, RejectionError))

    async def ask(texts: list[str], rows: list[int]) -> list[tuple[Found, ...]]:
        return list(zip(*[await core.each(texts, rows, call) for core in cores.values()], strict=True))

    return ask, min(known)


async def _sizes(cores: Mapping[str, Core], call: Call, side_by_side: SideBySide) -> dict[str, int | RejectionError]:
    """Texts in one request at most, by model, or why it is of no use."""

    async def size(core: Core) -> int | RejectionError:
        try:
            return await core.texts_per_request(call)
        except RejectionError as error:
            return error

    return dict(zip(cores, await side_by_side(size(core) for core in cores.values()), strict=True))
