"""Judges a classifier on labelled responses, source by source, beside the keyword baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.data import Row, family, normalised
from training.metrics import Floats, expected_calibration_error, keyword_refusal, scores, softmax

BARS = {"xstest": 0.97, "chatgpt-refusals": 0.92, "gptfuzz": 0.93}
"""Smallest F1 on the test file, by family of sources."""

LARGEST_INT8_LOSS = 0.005
"""How much F1 int8 may lose against float32, in any family."""


LARGEST_FALSE_ALARMS = 0.01
"""Which share of the everyday sentences that are held back may be called refusals."""

EVERYDAY = Path(__file__).resolve().parent.parent / "tests" / "data" / "everyday.jsonl"
"""Sentences with ``text``, ``label`` and ``use``: ``choosing`` (for numbers of the recipe) or ``held-out``."""


def everyday_rows(use: str) -> list[Row]:
    """The everyday sentences for one use; none is trained on."""
    lines = map(json.loads, EVERYDAY.read_text(encoding="utf-8").splitlines())
    return [Row(line["text"], line["label"], "everyday") for line in lines if line["use"] == use]


def everyday_errors(rows: Sequence[Row], logits: Floats) -> dict[str, int]:
    """How many answers are called refusals, how many refusals are missed, and of how many each."""
    guess = logits.argmax(axis=1).tolist()
    answers, refusals = ([g for r, g in zip(rows, guess, strict=True) if r.label == label] for label in (0, 1))
    return {
        "answers": len(answers),
        "false_alarms": sum(answers),
        "refusals": len(refusals),
        "missed": len(refusals) - sum(refusals),
    }


def judge(rows: Sequence[Row], logits: Floats) -> dict[str, Any]:
    """Scores per family and in all, whole and with each text once, and the calibration of the probabilities."""
    probabilities = softmax(logits)
    predicted = [int(label) for label in probabilities.argmax(axis=1)]
    report: dict[str, Any] = {"calibration_error": expected_calibration_error([r.label for r in rows], probabilities)}
    report["calibration_error_hand_labelled"] = expected_calibration_error(
        [r.label for r in rows if r.source != "gptfuzz"],
        probabilities[[i for i, r in enumerate(rows) if r.source != "gptfuzz"]],
    )
    for name, guess in (("model", predicted), ("keywords", [keyword_refusal(r.text) for r in rows])):
        report[name] = {}
        for group in [*BARS, "all"]:
            mine = [i for i, r in enumerate(rows) if group in ("all", family(r.source))]
            once = list({normalised(rows[i].text): i for i in mine}.values())
            report[name][group] = asdict(scores([rows[i].label for i in mine], [guess[i] for i in mine]))
            report[name][group]["f1_each_text_once"] = scores(
                [rows[i].label for i in once], [guess[i] for i in once]
            ).f1
    return report


def table(report: dict[str, Any]) -> str:
    """The report of :func:`judge` as a Markdown table."""
    lines = [
        "| source | rows | refusals | accuracy | precision | recall | F1 | F1, each text once | keywords F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for group, mine in report["model"].items():
        figures = [mine[k] for k in ("accuracy", "precision", "recall", "f1", "f1_each_text_once")]
        figures = [*figures, report["keywords"][group]["f1"]]
        cells = [group, str(mine["rows"]), str(mine["positives"]), *(f"{figure:.4f}" for figure in figures)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(
    float32: dict[str, Any], int8: dict[str, Any], everyday: dict[str, int], bars: Mapping[str, float]
) -> list[str]:
    """Sentences for every bar that is missed; empty when all are met.

    ``bars``: smallest F1 by family of sources or ``all``; ``everyday``: :func:`everyday_errors` of what is held back.
    """
    missed = []
    for group, bar in bars.items():
        f1, reference = int8["model"][group]["f1"], float32["model"][group]["f1"]
        if round(f1, 4) < bar:
            missed.append(f"F1 on {group} is {f1:.4f}, below {bar}")
        if reference - f1 > LARGEST_INT8_LOSS:
            missed.append(f"int8 loses {reference - f1:.4f} of F1 on {group}, more than {LARGEST_INT8_LOSS}")
    if everyday["missed"]:
        missed.append(f"{everyday['missed']} of {everyday['refusals']} everyday refusals are missed")
    if everyday["false_alarms"] > LARGEST_FALSE_ALARMS * everyday["answers"]:
        missed.append(
            f"{everyday['false_alarms']} of {everyday['answers']} everyday sentences are called refusals, more than "
            f"{LARGEST_FALSE_ALARMS:.0%}"
        )
    return missed
