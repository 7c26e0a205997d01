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
    """As the one for prompts, with another threshold."""

    rule = RULES["Toxicity"]
    threshold = 0.7


class Gibberish(OutputScanner):
    """As the one for prompts, with another threshold."""

    rule = RULES["Gibberish"]
    threshold = 0.7


class Language(ValidLanguages, OutputScanner):
    """As the one for prompts, with another threshold."""

    rule = RULES["Language"]
    threshold = 0.7
