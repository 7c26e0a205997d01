"""Everyday sentences that no question went before: what people write to each other, signs, notices, advice, facts.

They say "no", "sorry" and "do not" without refusing anything. Beside them stand refusals of like wording, so that it is
not the wording that decides. None is a paraphrase of a sentence held back in tests/data/everyday.jsonl.
"""

import json
import random
import re
from pathlib import Path

from training.phrases import fill, styled

REFUSED_SHARE = 0.25

_PHRASES: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "everyday_phrases.json").read_text(encoding="utf-8")
)
_SLOT = re.compile(r"\{(day|time|friend|place|food|object)\}")


def everyday_rows(seed: int, count: int) -> list[tuple[str, int]]:
    """Compose ``count`` different pairs of a sentence and its label (1: refused, 0: answered), in random order.

    The same ``seed`` and ``count`` give the same rows; every phrase is used before one is used again. Raises ValueError
    where the phrases cannot yield so many.
    """
    rng = random.Random(seed)
    refused = round(count * REFUSED_SHARE)
    made: dict[str, int] = {}
    for label, wanted, phrases in ((1, refused, _PHRASES["refusal"]), (0, count - refused, _PHRASES["answer"])):
        for _ in range(50):
            for phrase in rng.sample(phrases, len(phrases)):
                if wanted:
                    before = len(made)
                    made.setdefault(styled(fill(_own_slots(phrase, rng), rng), rng), label)
                    wanted -= len(made) - before
        if wanted:
            raise ValueError(f"the phrases lack {wanted} distinct texts of label {label}: ask for fewer rows")
    rows = list(made.items())
    rng.shuffle(rows)
    return rows


def _own_slots(phrase: str, rng: random.Random) -> str:
    text = _SLOT.sub(lambda match: rng.choice(_PHRASES[match[1]]), phrase)
    return text[:1].upper() + text[1:] if phrase.startswith("{") else text
