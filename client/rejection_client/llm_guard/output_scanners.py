"""Scanners of what a language model answered, by the names that they have in `llm_guard.output_scanners`."""

from rejection_client.llm_guard._rules import RULES
from rejection_client.llm_guard._scanner import OutputScanner, ValidLanguages

__all__ = ["Bias", "Gibberish", "Language", "NoRefusal", "Toxicity"]


class NoRefusal(OutputScanner):
    """Finds refusals: with the model that comes along, or any that names a positive label."""

    rule = RULES["NoRefusal"]
    threshold = 0.75


class Bias(OutputScanner):
    """Finds biased language, in the prompt or in the output: with `valurank/distilroberta-bias`."""

    rule = RULES["Bias"]
    threshold = 0.7
    reads_prompt = True


class Toxicity(OutputScanner):
    """Finds toxic language: with `unitary/unbiased-toxic-roberta`, whose labels about groups of people do not count."""

    rule = RULES["Toxicity"]
    threshold = 0.7


class Gibberish(OutputScanner):
    """Finds text without sense: with `madhurjindal/autonlp-Gibberish-Detector-492513457`."""

    rule = RULES["Gibberish"]
    threshold = 0.7


class Language(ValidLanguages, OutputScanner):
    """Finds languages other than the valid ones: with `papluca/xlm-roberta-base-language-detection`."""

    rule = RULES["Language"]
    threshold = 0.7
