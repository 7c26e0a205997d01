"""Training rows of the bundled model: read, cleaned of test texts and repeats, split, varied from epoch to epoch."""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from training.phrases import synthetic_rows

SYNTHETIC = "synthetic"
NOISY = "gptfuzz"
TRANSFER = "transfer"
"""Texts of `training.transfer`, which only the teacher has judged."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_REFUSING = re.compile(
    r"\b(can(no|['’])t|can not|won['’]t|unable|not able|will not|not appropriate|decline|refuse|rather not|as an ai|"
    r"not ethical|against)\b",
    re.IGNORECASE,
)
_APOLOGY_START = re.compile(
    r"^\s*(i['’]m (very |really |so )?sorry|i am sorry|sorry|i apologize)\b[,.]?( but)?\s+", re.IGNORECASE
)
_POLITE_STARTS = (
    "Sorry for the wait! ",
    "Sorry about the confusion. ",
    "I apologize for the mistake in my last message. ",
    "I'm sorry to hear that. ",
    "My apologies, here is the full answer. ",
    "Unfortunately my earlier reply was cut off. ",
    "I'm sorry you are dealing with this. ",
    "As an AI, I have no personal experience of it, but here is what is known. ",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled response."""

    text: str
    label: int
    """1: the model refused; 0: it answered."""
    source: str
    opinion: float | None = None
    """The teacher's probability that this is a refusal; with one, the label means nothing."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to train on, and those held out to choose by."""

    train: list[Row]
    validation: list[Row]


def family(source: str) -> str:
    """The three XSTest sources count as one."""
    return "xstest" if source.startswith("xstest-") else source


def read_rows(path: Path) -> list[Row]:
    """Read a JSON-lines file with the fields ``text``, ``label`` and ``source``."""
    with path.open(encoding="utf-8") as lines:
        return [Row(row["text"], int(row["label"]), row["source"]) for row in map(json.loads, lines)]


def normalised(text: str) -> str:
    """Text without differences of case, spacing and punctuation, to recognise repeats."""
    return " ".join(re.findall(r"\w+", text.lower()))


def training_rows(rows: Iterable[Row], test: Iterable[Row]) -> list[Row]:
    """Rows fit for training: no text of the test file, each text once, none whose sources disagree on the label.

    Repeats are recognised by :func:`normalised`, so a test text in another spacing or case is dropped too.
    """
    held_out = {normalised(row.text) for row in test}
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        key = normalised(row.text)
        if key and key not in held_out:
            by_text[key].append(row)
    kept = []
    for same in by_text.values():
        (label, votes), *others = Counter(row.label for row in same).most_common()
        if not others or votes > 2 * others[0][1]:
            kept.append(next(row for row in same if row.label == label))
    return kept


def beginning_digest(text: str, salt: bytes = b"") -> bytes:
    """Hash of the first 60 characters of the normalised text: canned refusals, which differ at the end, share it."""
    return hashlib.sha256(salt + normalised(text)[:60].encode()).digest()


def split(rows: Iterable[Row], validation_share: float) -> Split:
    """Deal out rows; texts that begin alike go to the same side.

    The side is read off :func:`beginning_digest`, so that it depends on nothing else and canned refusals cannot stand
    on both sides.
    """
    train: list[Row] = []
    validation: list[Row] = []
    for row in rows:
        (validation if beginning_digest(row.text)[0] < 256 * validation_share else train).append(row)
    return Split(train, validation)


def prepared(
    rows: Iterable[Row], test: Iterable[Row], synthetic: int, seed: int, validation_share: float = 0.1
) -> Split:
    """The rows of a training run: the labelled ones, cleaned, and ``synthetic`` project-written ones."""
    labelled = split(training_rows(rows, test), validation_share)
    written = [Row(text, label, SYNTHETIC) for text, label in synthetic_rows(seed, synthetic)]
    more = split(written, validation_share)
    return Split(labelled.train + more.train, labelled.validation + more.validation)


def varied(row: Row, rng: random.Random) -> Row:
    """The row as one epoch sees it: sometimes shortened or with the tell-tale apology removed or added.

    It teaches what single sentences need (short windows of long answers) and that an apology decides nothing. A label
    stays true: a refusal is only cut where its beginning already refuses, an answer only where no sentence refuses.
    """
    text, draw = row.text, rng.random()
    if row.label == 1:
        if draw < 0.15:
            head = " ".join(_SENTENCE_END.split(text.strip())[: rng.choice((1, 1, 2, 3))])
            text = head if _REFUSING.search(head) else text
        if rng.random() < 0.25:
            rest = _APOLOGY_START.sub("", text, count=1)
            if rest != text and _REFUSING.search(rest[:200]):
                text = rest[:1].upper() + rest[1:]
    elif draw < 0.15:
        sentences = _SENTENCE_END.split(text.strip())
        start = rng.randrange(len(sentences))
        window = " ".join(sentences[start : start + rng.choice((1, 1, 2, 4))])
        text = window if len(window) > 20 and not _REFUSING.search(window) else text
    elif draw < 0.27 and not _REFUSING.search(text[:300]):
        text = rng.choice(_POLITE_STARTS) + text.lstrip()
    if rng.random() < 0.03:
        text = text.lower()
    if rng.random() < 0.05:
        text = text.replace("'", "’")
    return replace(row, text=text)
