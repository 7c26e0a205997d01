"""Harmless texts of given lengths, always the same ones: composed of `texts/prose.txt` with a seeded generator."""

import functools
import lzma
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

PROSE = Path(__file__).parent / "texts" / "prose.txt"
ROBERTA_TOKENIZER = Path(__file__).parent / "data" / "roberta-tokenizer.json.xz"

PROFILE = ((0.0, 6), (0.05, 15), (0.25, 72), (0.50, 147), (0.75, 245), (0.95, 512), (1.0, 620))
"""Share of the texts, and DistilRoBERTa tokens (special ones included) that this share stays below: answers of chat
models as they come. Beyond 512 tokens a model truncates."""

_REFUSING = 0.25
"""Share of the texts that open with a refusal."""


@functools.cache
def roberta_tokenizer() -> Tokenizer:
    """The tokenizer that lengths are measured with, without truncation."""
    return Tokenizer.from_str(lzma.decompress(ROBERTA_TOKENIZER.read_bytes()).decode())


def read_prose(path: Path = PROSE) -> dict[str, list[str]]:
    """Sentences by block of the file."""
    blocks: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            blocks[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            list(blocks.values())[-1].append(line)
    return blocks


def target_lengths(count: int) -> list[int]:
    """Lengths in tokens of `count` texts that follow `PROFILE`, shortest first."""
    shares, tokens = zip(*PROFILE, strict=True)
    return [round(float(np.interp((index + 0.5) / count, shares, tokens))) for index in range(count)]


class Composer:
    """Writes texts of a wanted number of tokens; the same seed gives the same texts."""

    def __init__(self, seed: int, tokenizer: Tokenizer | None = None) -> None:
        self._random = random.Random(seed)
        self._tokenizer = tokenizer or roberta_tokenizer()
        self._prose = read_prose()

    def text(self, tokens: int) -> str:
        """A text of at most `tokens` tokens, special ones included, and hardly fewer; cut within a sentence."""
        refuses = self._random.random() < _REFUSING
        sentences = [self._sentence("refusals" if refuses else "answers")]
        # A token has 4 letters on average; twice that is always enough.
        while sum(map(len, sentences)) < 8 * tokens:
            sentences.append(self._sentence("answers"))
        breaks = [self._random.choice([" ", " ", " ", " ", "\n\n"]) for _ in sentences]
        whole = "".join(sentence + gap for sentence, gap in zip(sentences, breaks, strict=True))
        encoding = self._tokenizer.encode(whole, add_special_tokens=False)
        end = min(tokens - 2, len(encoding.ids)) - 1
        cut = whole[: encoding.offsets[max(end, 0)][1]]
        return cut.strip()

    def _sentence(self, block: str) -> str:
        sentence = self._random.choice(self._prose[block])
        return sentence.format(thing=self._random.choice(self._prose["things"]), number=self._random.randint(2, 90))


def mixed_texts(count: int = 400, seed: int = 20) -> list[str]:
    """Texts whose lengths follow `PROFILE`, in random order, all different."""
    composer = Composer(seed)
    texts: dict[str, None] = {}
    for tokens in target_lengths(count):
        text = composer.text(tokens)
        while text in texts:
            text = composer.text(tokens)
        texts[text] = None
    shuffled = list(texts)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def short_texts(count: int = 4096) -> list[str]:
    """One canned refusal, a number apart, so that no cache knows them."""
    return [f"I'm sorry, but I can't assist with request {10_000 + number}." for number in range(count)]


def long_texts(count: int = 32, seed: int = 21) -> list[str]:
    """Texts that fill 512 tokens of any tokenizer of the BERT family; models truncate them to that."""
    composer = Composer(seed)
    return [composer.text(640) for _ in range(count)]


def texts_of_length(tokens: int, count: int, seed: int = 22) -> list[str]:
    """Texts of about `tokens` tokens each."""
    composer = Composer(seed + tokens)
    return [composer.text(tokens) for _ in range(count)]


def token_percentiles(texts: Sequence[str], shares: Sequence[int] = (5, 25, 50, 75, 95)) -> dict[str, int]:
    """DistilRoBERTa tokens, cut at 512, at percentiles of the texts."""
    counts = [min(512, len(encoding.ids)) for encoding in roberta_tokenizer().encode_batch(list(texts))]
    return {f"p{share}": round(float(np.percentile(counts, share))) for share in shares}
