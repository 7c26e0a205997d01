"""Synthetic training texts: refusals and answers composed from hand-written phrases.

The labelled responses come from few models. These rows add what other models say, and the two traps: apologies and
"I can't" inside an answer that helps, and refusals without any such word. The phrases stand in the two JSON files
beside this module; what a refusal is about is only ever named, never explained.
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

REFUSED_SHARE = 0.45

_Phrases = dict[str, list[str]]
_Composer = Callable[[random.Random], str]

_FIRST_PERSON = re.compile(r"^I\b")
_SLOT = re.compile(r"\{(\w+)\}")
_DOUBLED = {
    "get",
    "set",
    "run",
    "put",
    "hit",
    "plan",
    "spot",
    "stop",
    "commit",
    "reset",
    "trim",
    "jam",
    "rig",
    "scam",
    "plot",
    "chat",
}
_SPEAKERS = (
    "Assistant: ",
    "AI: ",
    "ASSISTANT: ",
    "Bot: ",
    "**Assistant:** ",
    "### Response:\n",
    "Answer: ",
    "Response: ",
)


def _load(name: str) -> _Phrases:
    phrases: _Phrases = json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return phrases


_REFUSAL = _load("refusal_phrases.json")
_NORMAL = _load("normal_phrases.json")


def synthetic_rows(seed: int, count: int) -> list[tuple[str, int]]:
    """Compose ``count`` pairs of a text and its label (1: refused, 0: answered), in random order.

    The same ``seed`` and ``count`` give the same rows. No two texts differ only in case, spacing or punctuation.
    Raises ValueError where the phrases cannot yield so many.
    """
    rng = random.Random(seed)
    refused = round(count * REFUSED_SHARE)
    rows: list[tuple[str, int]] = []
    seen: set[str] = set()
    for label, wanted, compose in ((1, refused, _refusal), (0, count - refused, _answer)):
        kept, attempts = 0, 0
        while kept < wanted:
            attempts += 1
            if attempts > 50 * wanted + 1000:
                raise ValueError(
                    f"the phrases gave only {kept} of {wanted} distinct texts of label {label}: ask for fewer rows"
                )
            text = styled(compose(rng), rng)
            key = " ".join(re.findall(r"\w+", text.lower()))
            if key not in seen:
                seen.add(key)
                rows.append((text, label))
                kept += 1
    rng.shuffle(rows)
    return rows


def _refusal(rng: random.Random) -> str:
    """One refused text: short, deflecting, in another language, for want of ability, or built from parts."""
    compose: _Composer = rng.choices(
        (_short_refusal, _deflection, _foreign_refusal, _incapable, _refusal_of_parts), (8, 5, 4, 16, 67)
    )[0]
    return compose(rng)


def _short_refusal(rng: random.Random) -> str:
    text = rng.choice(_REFUSAL["short"])
    return text if rng.random() < 0.4 else f"{text} {fill(rng.choice(_REFUSAL[rng.choice(('reason', 'offer'))]), rng)}"


def _deflection(rng: random.Random) -> str:
    return fill(rng.choice(_REFUSAL["deflect"]), rng)


def _foreign_refusal(rng: random.Random) -> str:
    return rng.choice(_REFUSAL["foreign"])


def _incapable(rng: random.Random) -> str:
    parts = [_led(rng.choice(_REFUSAL["cap"]), rng)]
    if rng.random() < 0.4:
        parts.append(rng.choice(_REFUSAL["creason"]))
    if rng.random() < 0.5:
        parts.append(rng.choice(_REFUSAL["coffer"]))
    return fill(" ".join(parts), rng)


def _refusal_of_parts(rng: random.Random) -> str:
    """Opening, core, reasons, sometimes a second refusing paragraph, and an offer; only the core is never left out."""
    reasons = rng.sample(_REFUSAL["reason"], rng.choices((0, 1, 2, 3, 4), (33, 34, 18, 9, 6))[0])
    parts = [_led(rng.choice(_REFUSAL["core"]), rng), *reasons]
    if rng.random() < 0.2:
        parts.insert(0, rng.choice(_REFUSAL["open"]))
    paragraphs = [" ".join(parts)]
    if rng.random() < 0.15:
        more = rng.sample([reason for reason in _REFUSAL["reason"] if reason not in reasons], rng.choice((1, 1, 2, 3)))
        paragraphs.append(" ".join((_led(rng.choice(_REFUSAL["core"]), rng), *more)))
    if rng.random() < 0.55:
        paragraphs.append(rng.choice(_REFUSAL["offer"]))
    elif rng.random() < 0.2:
        subjects = rng.sample(_NORMAL["bnoun"], rng.choice((2, 3, 4)))
        paragraphs.append(
            "\n".join((rng.choice(_REFUSAL["options"]), *(f"- {_upper(subject)}" for subject in subjects)))
        )
    separator = "\n\n" if rng.random() < 0.3 or "\n" in paragraphs[-1] else " "
    return fill(separator.join(paragraphs), rng)


def _led(core: str, rng: random.Random) -> str:
    """The core of a refusal, half of the time behind an opening that runs into it."""
    if rng.random() < 0.5:
        return core
    keeps_case = _FIRST_PERSON.match(core) or core.startswith("{")
    core = core if keeps_case else core[0].lower() + core[1:]
    return f"{rng.choice(_REFUSAL['lead'])} {core.replace('{Rdoing}', '{rdoing}')}"


def _answer(rng: random.Random) -> str:
    """One answering text; three in four carry an apology, a ban, a refusal in quotes or another trap."""
    compose: _Composer = rng.choices(
        (_trap, _hedged, _guide_behind_trap, _foreign_answer, _plain, _guide, _fragment), (43, 22, 14, 4, 6, 4, 7)
    )[0]
    return compose(rng)


def _trap(rng: random.Random) -> str:
    text = rng.choice(_NORMAL["hard"])
    if rng.random() < 0.15:
        text = (
            f"{text} {rng.choice(_NORMAL['close'])}"
            if "\n" not in text
            else f"{text}\n\n{rng.choice(_NORMAL['close'])}"
        )
    elif rng.random() < 0.1:
        text = f"{text}\n\n{rng.choice(_NORMAL['hard'])}"
    return fill(text, rng)


def _hedged(rng: random.Random) -> str:
    """What the model says it cannot do, and then an answer all the same."""
    answer = rng.sample(_NORMAL["view"], rng.choice((1, 2, 3))) if rng.random() < 0.7 else [_guide(rng)]
    return " ".join((rng.choice(_NORMAL["hedge"]), rng.choice(_NORMAL["turn"]), *answer))


def _guide_behind_trap(rng: random.Random) -> str:
    text = f"{rng.choice(_NORMAL['hardlead'])}{rng.choice((' ', chr(10) * 2))}{_guide(rng)}"
    return f"{text}\n\n{_guide(rng)}" if rng.random() < 0.2 else text


def _guide(rng: random.Random) -> str:
    """Some of the steps of a guide, as a numbered or bulleted list or as running text."""
    subject, *steps = rng.choice(_NORMAL["guide"]).split("#")
    steps = steps[: rng.choice((2, 3, 4, 5, 5))]
    layout = rng.choice(("numbers", "bullets", "text", "text"))
    if layout == "text":
        intro = rng.choice(("", "", f"On {subject}: ", f"This is about {subject}. "))
        body = intro + " ".join(steps)
    else:
        marks = [f"{place}. " if layout == "numbers" else "- " for place in range(1, len(steps) + 1)]
        intro = rng.choice(_NORMAL["intro"]).replace("{g}", subject).replace("{G}", _upper(subject))
        body = "\n".join((intro, *(mark + step for mark, step in zip(marks, steps, strict=True))))
    if rng.random() < 0.35:
        body += (" " if layout == "text" else "\n\n") + rng.choice(_NORMAL["close"])
    return body


def _foreign_answer(rng: random.Random) -> str:
    return fill(rng.choice(_NORMAL["foreign"]), rng)


def _plain(rng: random.Random) -> str:
    return fill(rng.choice(_NORMAL["plain"]), rng)


def _fragment(rng: random.Random) -> str:
    """One or two sentences out of a guide."""
    _, *steps = rng.choice(_NORMAL["guide"]).split("#")
    start = rng.randrange(len(steps))
    return " ".join(steps[start : start + rng.choice((1, 1, 2))])


def fill(template: str, rng: random.Random) -> str:
    """Fill every slot; slots of one name within one text agree on people, places and the refused act."""
    verb, rest = rng.choice(_REFUSAL["rtask"]).split("|")
    acts = {"rdo": f"{verb} {rest}", "rdoing": f"{_gerund(verb)} {rest}"}
    fixed = {
        "name": rng.choice(_NORMAL["name"]),
        "city": rng.choice(_NORMAL["city"]),
        "item": rng.choice(_NORMAL["item"]),
    }
    verb, rest = rng.choice(_NORMAL["crime"]).split("|")
    acts |= {"crimedo": f"{verb} {rest}", "crimedoing": f"{_gerund(verb)} {rest}"}
    acts |= {"Rdoing": _upper(acts["rdoing"]), "Crimedoing": _upper(acts["crimedoing"])}
    fixed |= acts | {"thing": fixed["item"].split(" ", 1)[1], "n": str(rng.randint(3, 30))}

    def value(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in fixed:
            return fixed[slot]
        if slot == "bdoing":
            head, _, tail = rng.choice(_NORMAL["bdo"]).partition(" ")
            return f"{_gerund(head)} {tail}"
        if slot in ("rnoun", "cdo"):
            return _SLOT.sub(value, rng.choice(_REFUSAL[slot]))
        return rng.choice(_NORMAL[slot])

    return _SLOT.sub(value, template)


def _gerund(verb: str) -> str:
    head, _, particle = verb.partition(" ")
    if head == "tie":
        head = "tying"
    elif head in _DOUBLED:
        head += head[-1] + "ing"
    elif head.endswith("e"):
        head = head[:-1] + "ing"
    else:
        head += "ing"
    return f"{head} {particle}".rstrip()


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def styled(text: str, rng: random.Random) -> str:
    """The text in one of the habits of writing found in logs; none of them changes who refuses what."""
    if rng.random() < 0.06:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.replace("'", "’")
    if rng.random() < 0.05 and text.endswith("."):
        text = text[:-1]
    if rng.random() < 0.04 and "\n" not in text and "**" not in text:
        text = re.sub(r"^([^.!?]+[.!?])", r"**\1**", text, count=1)
    if rng.random() < 0.06:
        text = rng.choice(_SPEAKERS) + text
    if rng.random() < 0.08:
        text = rng.choice((" ", "  ", "\n", "\n\n")) + text
    return text
