"""The scanners for LLM Guard: their rules, against a client whose scores are given, and beside LLM Guard's own."""

import enum
import importlib
import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import pytest

from rejection_client import (
    ModelInfo,
    NoPositiveLabelError,
    Prediction,
    RejectionClient,
    Result,
    UnexpectedAnswerError,
)
from rejection_client._client import CallOptions, TextOptions
from rejection_client._documents import sentence_spans
from rejection_client.llm_guard import input_scanners, output_scanners
from rejection_client.llm_guard._rules import RULES, risk_score
from rejection_client.llm_guard._scanner import InputScanner, Scanner, ValidLanguages, parts
from rejection_client.llm_guard.input_scanners import Language, PromptInjection
from rejection_client.llm_guard.output_scanners import Bias, Gibberish, NoRefusal, Toxicity

TOXIC = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit", "male"]
LABELS = {
    "NoRefusal": ["NORMAL", "REJECTION"],
    "PromptInjection": ["SAFE", "INJECTION"],
    "Toxicity": TOXIC,
    "Gibberish": ["clean", "mild gibberish", "noise", "word salad"],
    "Language": ["ja", "nl", "de", "en", "fr"],
    "Bias": ["BIASED", "NEUTRAL"],
}
"""As in the published models, in part."""
SCANNERS = [
    *(getattr(input_scanners, name) for name in input_scanners.__all__),
    *(getattr(output_scanners, name) for name in output_scanners.__all__),
]
Score = Callable[[str], list[float]]


class Scores(RejectionClient):
    """A client that gives each text the scores that it names, as in `0.9 0.1 of a text.`, and remembers the calls."""

    def __init__(
        self, labels: Sequence[str] = ("REJECTION", "NORMAL"), positive_label: str | None = "REJECTION"
    ) -> None:
        super().__init__()
        self.labels, self.positive_label = labels, positive_label
        self.function: str | None = "sigmoid"
        self.score: Score = lambda text: numbers(text, len(labels))
        self.asked: list[tuple[list[str], int | None]] = []

    def classify_many(self, texts: Sequence[str], **options: Unpack[TextOptions]) -> list[Prediction]:
        self.asked.append((list(texts), options.get("max_length")))
        found = [dict(zip(self.labels, self.score(text), strict=True)) for text in texts]
        return [Prediction(max(of, key=of.__getitem__), of, 9, False, self.positive_label) for of in found]

    def classify_all(self, texts: Any, models: Sequence[str] | None = None, **options: Unpack[TextOptions]) -> Any:
        assert models is not None
        predictions = self.classify_many([f"{models[0]} {text}" for text in texts], **options)
        return {models[0]: [Result(0, "", prediction) for prediction in predictions]}

    def model_info(self, model: str | None = None, **_: Unpack[CallOptions]) -> ModelInfo:
        facts: dict[str, Any] = {"versions": (), "labels": tuple(self.labels), "server": "triton"}
        return ModelInfo(
            name=model or "rejection",
            function_to_apply=self.function,
            max_batch_size=8,
            max_length=64,
            **facts,
        )


def numbers(text: str, width: int) -> list[float]:
    """The numbers in a text; the second of two is what the first leaves."""
    found = [float(word) for word in text.split() if word.replace(".", "").isdecimal()]
    return [found[0], 1 - found[0]] if width == 2 else found[:width]


def scan(scanner: Scanner, text: str, prompt: str = "prompt") -> tuple[str, bool, float]:
    if isinstance(scanner, InputScanner):
        return scanner.scan(text)
    assert hasattr(scanner, "scan")
    found: tuple[str, bool, float] = scanner.scan(prompt, text)
    return found


def made(scanner: type[Scanner], client: RejectionClient, **options: Any) -> Scanner:
    """The scanner, with English and German as valid languages where it wants some."""
    if issubclass(scanner, ValidLanguages):
        return scanner(client, ["en", "de"], **options)
    return scanner(client, **options)


@pytest.mark.parametrize("output", ["", "  ", "\n\t"])
@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_blank_text_is_valid_and_asks_nobody(scanner: type[Scanner], output: str) -> None:
    client = Scores()
    assert scan(made(scanner, client), output) == (output, True, -1.0)
    assert client.asked == []


@pytest.mark.parametrize(
    ("score", "threshold", "is_valid", "risk"),
    [
        (0.99, 0.75, False, 1.0),
        (0.80, 0.75, False, 0.2),
        (0.7549, 0.75, True, 0.0),  # rounded to 0.75, which is not above 0.75
        (0.7551, 0.75, False, 0.0),  # rounded to 0.76
        (0.5, 0.75, True, -0.3),
        (0.0, 0.75, True, -1.0),
        (1.0, 1.0, True, 0.0),
        (0.004, 0.5, True, -1.0),
    ],
)
def test_scores_are_rounded_before_they_are_compared(
    score: float, threshold: float, is_valid: bool, risk: float
) -> None:
    output = f"{score} of a text"
    *found, found_risk = NoRefusal(Scores(), threshold=threshold).scan("prompt", output)
    assert found == [output, is_valid]
    assert found_risk == pytest.approx(risk)


def test_the_whole_output_is_cut_at_128_tokens() -> None:
    client = Scores()
    NoRefusal(client).scan("prompt", " 0.1 one. 0.9 two. ")
    assert client.asked == [([" 0.1 one. 0.9 two. "], 128)]


def test_the_first_sentence_above_the_threshold_decides() -> None:
    client = Scores()
    output = "  0.7 of it. 0.8 of it. 0.95 of it. "
    assert NoRefusal(client, match_type="sentence").scan("prompt", output) == (output, False, 0.2)
    assert client.asked == [(["0.7 of it.", "0.8 of it.", "0.95 of it."], 128)]


def test_the_highest_sentence_is_the_risk_of_a_valid_output() -> None:
    output = "0.3 of it. 0.6 of it. 0.1 of it."
    assert NoRefusal(Scores(), match_type="sentence").scan("prompt", output) == (output, True, -0.2)


def test_the_highest_sentence_decides_on_gibberish() -> None:
    client = Scores(LABELS["Gibberish"])
    output = "0.2 0.8 0 0 of it. 0.05 0 0.95 0 of it."
    assert Gibberish(client, match_type="sentence").scan("", output) == (output, False, 0.8)


def test_labels_that_are_no_risk_do_not_count_as_toxic() -> None:
    client = Scores(TOXIC)
    assert Toxicity(client).scan("", "0.1 0 0 0 0 0.3 0 0.9")[1:] == (True, -0.6)
    assert Toxicity(client).scan("", "0.1 0 0 0 0 0.703 0 0.9")[1:] == (False, 0.0)


def test_a_language_that_is_not_valid_needs_a_score_above_the_threshold() -> None:
    client = Scores(LABELS["Language"])
    scanner = Language(client, ["en", "de"])
    assert scanner.scan("0 0 0.2 0.7 0.1")[1:] == (True, -1.0)
    assert scanner.scan("0.6 0 0.2 0.1 0.1")[1:] == (True, -1.0)
    assert scanner.scan("0.8 0 0.1 0.1 0")[1:] == (False, 0.5)


def test_a_model_that_knows_none_of_the_valid_languages_has_no_verdict() -> None:
    with pytest.raises(UnexpectedAnswerError, match="the model has the labels NORMAL, REJECTION, and the scanner goes"):
        Language(Scores(LABELS["NoRefusal"]), ["en"]).scan("0.1 0.9")
    for languages in ("en", ()):
        with pytest.raises(ValueError, match="give the model's labels, such as"):
            Language(Scores(LABELS["Language"]), languages)


def test_bias_is_looked_for_in_the_prompt_too() -> None:
    client = Scores(LABELS["Bias"])
    assert Bias(client).scan("0.9 is asked", "this") == ("this", False, 0.7)
    assert client.asked == [(["0.9 is asked\nthis"], 512)]


def test_parts_of_a_prompt() -> None:
    long = "".join(chr(0x4E00 + number) for number in range(600))
    assert parts(long, "full") == [long]
    assert parts(long, "truncate_head_tail") == [f"{long[:126]}...{long[-126:]}"]
    assert parts(long[:256], "truncate_head_tail") == [long[:256]]
    assert parts(long, "chunks") == [long[:256], long[231:487], long[462:]]
    assert parts(long[:255], "chunks") == [long[:255]]


def test_another_model_of_the_server_may_be_named() -> None:
    client = Scores(LABELS["PromptInjection"])
    assert PromptInjection(client, model="injection").scan("0.01 of it")[1:] == (False, 0.9)
    assert client.asked == [(["injection 0.01 of it"], 512)]


@pytest.mark.parametrize(("score", "threshold"), [(1.0, 0.001), (0.001, 1.0), (0.0, 0.001)])
def test_the_risk_stays_within_its_bounds(score: float, threshold: float) -> None:
    assert -1 <= risk_score(score, threshold) <= 1


@pytest.mark.parametrize(
    ("scanner", "options", "named"),
    [
        (NoRefusal, {"threshold": 0}, "threshold"),
        (NoRefusal, {"threshold": 1.1}, "threshold"),
        (NoRefusal, {"match_type": "chunks"}, "one of full, sentence$"),
        (NoRefusal, {"match_type": "truncate_token_head_tail"}, "one of full, sentence$"),
        (PromptInjection, {"match_type": "word"}, "one of full, sentence, chunks, truncate_head_tail"),
        (PromptInjection, {"match_type": "truncate_token_head_tail"}, "give 'truncate_head_tail'"),
    ],
)
def test_options_that_cannot_be(scanner: type[Scanner], options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        scanner(Scores(), **options)


def test_an_enumeration_of_the_match_types_is_taken() -> None:
    class MatchType(enum.Enum):
        SENTENCE = "sentence"

    scanner = NoRefusal(Scores(), match_type=MatchType.SENTENCE)  # type: ignore[arg-type]  # LLM Guard's own callers
    assert scanner.scan("", "0.1 of it. 0.9 of it.")[1] is False


def test_a_model_without_a_positive_label_cannot_be_scanned_with() -> None:
    with pytest.raises(NoPositiveLabelError, match="one of REJECTION, NORMAL"):
        NoRefusal(Scores(positive_label=None)).scan("prompt", "0.9 of a text")


@pytest.mark.parametrize("scanner", [PromptInjection, Bias, Gibberish, Toxicity])
def test_a_model_of_another_kind_cannot_be_scanned_with(scanner: type[Scanner]) -> None:
    with pytest.raises(UnexpectedAnswerError, match="has the labels REJECTION, NORMAL, and the scanner goes by"):
        scan(scanner(Scores()), "0.9 of a text")


def test_toxicity_wants_a_score_for_each_label_by_itself() -> None:
    client = Scores(TOXIC)
    client.function = "softmax"
    with pytest.raises(UnexpectedAnswerError, match="'toxic' are made by softmax, and Toxicity goes by sigmoid"):
        Toxicity(client, model="toxic").scan("", "0.9 0 0 0 0 0 0 0")
    assert client.asked == []


def test_the_module_offers_the_scanners() -> None:
    assert {scanner.__name__ for scanner in SCANNERS} == set(RULES)
    for scanner in SCANNERS:
        wanted = ["self", "prompt"] if issubclass(scanner, InputScanner) else ["self", "prompt", "output"]
        assert list(inspect.signature(scanner.scan).parameters) == wanted


# --- beside LLM Guard's own scanners ---------------------------------------------------------------------------------


def chance(labels: Sequence[str]) -> Score:
    """Scores that a text has by chance, always the same: many near 0 or 1, and of a sum of 1 but for toxicity."""

    def score(text: str) -> list[float]:
        drawn = random.Random(text)
        found = [drawn.random() ** 4 for _ in labels]
        return found if labels is TOXIC else [one / sum(found) for one in found]

    return score


def theirs(monkeypatch: pytest.MonkeyPatch, scanner: type[Scanner]) -> Callable[..., Any]:
    """LLM Guard's scanner with these scores in place of its model, and our sentences: its own need a download."""
    llm_guard = pytest.importorskip(
        "llm_guard", reason="LLM Guard is not installed; it brings torch, so it is no dependency: pip install llm-guard"
    )
    nltk = importlib.import_module("nltk")
    monkeypatch.setattr(nltk.data, "find", lambda _: None)
    monkeypatch.setattr(nltk, "sent_tokenize", lambda text: [text[start:end] for start, end in sentence_spans(text)])
    labels = LABELS[scanner.__name__]

    def pipeline(*_: Any, top_k: int | None = 1, **__: Any) -> Callable[[list[str]], list[Any]]:
        def results(text: str) -> list[dict[str, Any]]:
            found = zip(labels, chance(labels)(text), strict=True)
            return sorted(({"label": name, "score": score} for name, score in found), key=lambda one: -one["score"])

        return lambda texts: [results(text) if top_k is None else results(text)[0] for text in texts]

    for name in ("prompt_injection", "toxicity", "gibberish", "language"):
        module = importlib.import_module(f"llm_guard.input_scanners.{name}")
        monkeypatch.setattr(module, "get_tokenizer_and_model_for_classification", lambda **_: (None, None))
        monkeypatch.setattr(module, "pipeline", pipeline)
    for name in ("no_refusal", "bias"):
        module = importlib.import_module(f"llm_guard.output_scanners.{name}")
        monkeypatch.setattr(module, "get_tokenizer_and_model_for_classification", lambda **_: (None, None))
        monkeypatch.setattr(module, "pipeline", pipeline)
    side = llm_guard.input_scanners if issubclass(scanner, InputScanner) else llm_guard.output_scanners
    made: Callable[..., Any] = getattr(side, scanner.__name__)
    return made


@pytest.mark.parametrize(
    "scanner", SCANNERS, ids=lambda scanner: f"{scanner.__module__.rpartition('.')[2]}-{scanner.__name__}"
)
def test_every_verdict_is_llm_guards(monkeypatch: pytest.MonkeyPatch, scanner: type[Scanner]) -> None:
    original = theirs(monkeypatch, scanner)
    client = Scores(LABELS[scanner.__name__])
    client.score = chance(LABELS[scanner.__name__])
    languages = [["en", "de"]] if issubclass(scanner, ValidLanguages) else []
    texts = [f"This is number {number}. There is more of it. And an end." for number in range(60)]
    texts += [text * 8 for text in texts[:20]]
    verdicts = set()
    for match_type in scanner.rule.match_types:
        for threshold in (None, 0.01, 0.3, 0.5, 0.75, 0.99):
            options: dict[str, Any] = {"match_type": match_type}
            options |= {} if threshold is None else {"threshold": threshold}
            expected, found = original(*languages, **options), scanner(client, *languages, **options)
            for text in texts:
                arguments = [text] if issubclass(scanner, InputScanner) else ["Well?", text]
                verdict = found.scan(*arguments)  # type: ignore[attr-defined]
                assert verdict == expected.scan(*arguments), (options, text)
                verdicts.add(verdict[1])
    assert verdicts == {True, False}


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: f"{scanner.__module__}-{scanner.__name__}")
def test_the_options_are_llm_guards(monkeypatch: pytest.MonkeyPatch, scanner: type[Scanner]) -> None:
    original = inspect.signature(theirs(monkeypatch, scanner)).parameters
    ours = inspect.signature(scanner).parameters
    assert next(iter(ours)) == "client", "in place of use_onnx, and of the model's files"
    assert original.keys() - {"use_onnx"} == ours.keys() - {"client"}
    assert {name: ours[name].kind for name in [*ours][1:]} == {name: original[name].kind for name in [*ours][1:]}
    assert scanner.threshold == original["threshold"].default
    assert ours["match_type"].default == original["match_type"].default.value


def test_the_risk_is_llm_guards() -> None:
    util = pytest.importorskip("llm_guard.util", reason="LLM Guard is not installed")
    for threshold in (0.01, 0.25, 0.5, 0.75, 0.9, 0.99):
        for percent in range(101):
            score = percent / 100
            assert risk_score(score, threshold) == util.calculate_risk_score(score, threshold), (score, threshold)
