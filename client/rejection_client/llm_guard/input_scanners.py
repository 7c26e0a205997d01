"""Scanners of prompts, by the names that they have in `llm_guard.input_scanners`."""

from rejection_client.llm_guard._rules import RULES
from rejection_client.llm_guard._scanner import InputScanner, ValidLanguages

__all__ = ["Gibberish", "Language", "PromptInjection", "Toxicity"]


class PromptInjection(InputScanner):
    """Finds attempts to take over a language model: with `protectai/deberta-v3-base-prompt-injection-v2`.

    `match_type` may also be "chunks" (of 256 characters) or "truncate_head_tail" (the two ends of a longer text).
    """

    rule = RULES["PromptInjection"]
    threshold = 0.92


class Toxicity(InputScanner):
    """Finds toxic language: with `unitary/unbiased-toxic-roberta`, whose labels about groups of people do not count."""

    rule = RULES["Toxicity"]
    threshold = 0.5


class Gibberish(InputScanner):
    """Finds text without sense: with `madhurjindal/autonlp-Gibberish-Detector-492513457`."""

    rule = RULES["Gibberish"]
    threshold = 0.97


class Language(ValidLanguages, InputScanner):
    """Finds languages other than the valid ones: with `papluca/xlm-roberta-base-language-detection`."""

    rule = RULES["Language"]
    threshold = 0.6
