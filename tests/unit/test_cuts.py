"""Cutting a text changes no token before the cut, and what is read of a long text gives the ids of the whole."""

import functools
import json
import lzma
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from rejection_server.prepare import tokenizer as served
from support.repository import REPOSITORY, RESPONSES, ROOT

tokenizing = served.tokenizing()
cuts_module: Any = sys.modules["cuts"]
BUNDLED = REPOSITORY / "tokenizer" / "1" / "tokenizer.json"
CASES = 300
"""Texts for each tokenizer; several places are tried in each."""
PIECES = (
    *(" ", " ", " ", "  ", "\n", "\n\n", "\t", " \n ", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\x00", "\x85"),
    *(
        "a",
        "word",
        "Don't",
        "'s",
        "'",
        "''",
        "``",
        "it's",
        "x1",
        "42",
        "3.14",
        "A" * 120,
        "été",
        "e\u0301",
        "\u0301\u0323",
    ),
    *(
        "[MASK]",
        "[MA",
        "SK]",
        "<mask>",
        "<ma",
        "sk>",
        "[SEP]",
        "</s>",
        "\u2581",
        "\u2581\u2581",
        "_",
        "__",
        "...",
        "?!",
    ),
    *(
        "中文",
        "字。",
        "，",
        "日本の",
        "한국어",
        "\u1112\u1161\u11ab",
        "สวัสดี",
        "नमस्ते",
        "\u0d4e",
        "مرحبا",
        "\u0600",
        "שלום",
        "Привет",
        "ΣΑΣ",
    ),
    *("👩\u200d👩\u200d👧", "🙂", "🇩🇪", "\ufdfa", "ﬁ", "Ⅷ", "½", "\u0344", "İ", "ß", "\ufeff", "\u00ad", "=\u0338"),
)


def answers() -> list[str]:
    lines = RESPONSES.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@functools.cache
def bpe(pattern: str | None = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(answers()[:200], trainer)
    return made


def llama(choose: Callable[[Iterable[str]], str]) -> Tokenizer:
    """As those of Llama 3 and Qwen 2."""
    made = Tokenizer.from_str(bpe(choose(cuts_module.SPLIT_PATTERNS)).to_str())
    made.add_special_tokens(["<mask>", "</s>"])
    return made


def spaces() -> Tokenizer:
    """As ModernBERT's: runs of blanks are added tokens."""
    made = Tokenizer.from_str(bpe().to_str())
    made.normalizer = normalizers.NFC()
    made.add_tokens(["  ", "   ", "    ", "\n\n"])
    made.add_special_tokens(["[MASK]", "[SEP]"])
    return made


@functools.cache
def unigram(kind: str) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first" if kind == "deberta" else "always")
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    made.pre_tokenizer = metaspace if kind == "deberta" else split
    trainer = trainers.UnigramTrainer(
        vocab_size=700, special_tokens=["<unk>", "</s>", "<mask>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(answers()[:200], trainer)
    if kind == "deberta":
        blanks = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
        made.normalizer = normalizers.Sequence([blanks, normalizers.NFC(), normalizers.Strip(left=False, right=True)])
    elif kind == "plain":
        made.pre_tokenizer = metaspace
    elif kind == "albert":
        quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        forms = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        made.normalizer = normalizers.Sequence([*quotes, *forms])
    else:
        made.normalizer = normalizers.Sequence(
            [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
    return made


def sentencepiece(folder: Path) -> Tokenizer:
    """As XLM-RoBERTa's: with the character map of SentencePiece."""
    spm = pytest.importorskip("sentencepiece", reason="SentencePiece makes the map: scripts/install export")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(answers()[:200]), model_prefix=str(folder / "spm"), vocab_size=400, minloglevel=2
    )
    normalizer_spec = field((folder / "spm.model").read_bytes(), 3)
    made = Tokenizer.from_str(unigram("xlm").to_str())
    blanks = normalizers.Replace(Regex(" {2,}"), " ")
    made.normalizer = normalizers.Sequence([normalizers.Precompiled(field(normalizer_spec, 2)), blanks])
    assert made.normalizer.normalize_str("Ⅷ\u3000x") == "VIII x"
    return made


def field(message: bytes, wanted: int) -> bytes:
    """The first field of that number in a protobuf message of fields with a length."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 128:
                return value, at

    at = 0
    while True:
        tag, at = varint(at)
        size, at = varint(at)
        if tag >> 3 == wanted:
            return message[at : at + size]
        at += size if tag & 7 == 2 else 0


def cased() -> Tokenizer:
    made = Tokenizer.from_file(str(BUNDLED))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.add_tokens(["word"])
    return made


def roberta() -> Tokenizer:
    return Tokenizer.from_str(lzma.open(ROOT / "bench" / "data" / "roberta-tokenizer.json.xz", "rt").read())


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bundled": lambda: Tokenizer.from_file(str(BUNDLED)),
    "cased": cased,
    "roberta": roberta,
    "spaces": spaces,
    "llama": lambda: llama(min),
    "qwen": lambda: llama(max),
    "xlm": lambda: unigram("xlm"),
    "deberta": lambda: unigram("deberta"),
    "albert": lambda: unigram("albert"),
    "plain": lambda: unigram("plain"),
}


def cuts_of(tokenizer: Tokenizer) -> Any:
    normalizer = tokenizer.normalizer
    return cuts_module.find_cuts(json.loads(tokenizer.to_str()), normalizer.normalize_str if normalizer else str)


def random_text(dice: random.Random) -> str:
    parts = [dice.choice(PIECES) for _ in range(dice.randrange(5, 60))]
    for _ in range(dice.randrange(4)):
        parts.insert(dice.randrange(len(parts)), chr(dice.choice([*range(0xD800), *range(0xE000, 0x11FFF)])))
    return dice.choice(("", " ")).join(parts)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", [*KINDS, "sentencepiece"])
def test_no_token_before_a_cut_changes(kind: str, tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path) if kind == "sentencepiece" else KINDS[kind]()
    cuts = cuts_of(tokenizer)
    dice = random.Random(kind)
    texts = [random_text(dice) for _ in range(CASES)] + answers()[:100]
    places = 0
    for text in texts:
        all_ids = ids(tokenizer, text)
        for most in {dice.randrange(1, len(text) + 1) for _ in range(4)}:
            place = cuts.last(text, most)
            assert 0 <= place <= most
            first = ids(tokenizer, text[:place])
            assert all_ids[: len(first)] == first, (text, place)
            places += place > 0
    assert places > CASES


def reader(tokenizer: Tokenizer, folder: Path, limit: int = 512) -> Any:
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizing.TextTokenizer(folder / "tokenizer.json", limit)


def long_texts() -> dict[str, str]:
    dice = random.Random(1)
    answer = " ".join(answers())
    alphabet = "".join(map(chr, [*range(33, 127), *range(0x4E00, 0x4F00)]))
    return {
        "answers": answer[:100_000],
        "one line each": "\n".join(answers())[:100_000],
        "mixed": " ".join(random_text(dice) for _ in range(600)),
        "no blanks": "".join(dice.choices(alphabet, k=70_000)),
        "json": json.dumps([{"a": number, "b": [1.5, None]} for number in range(3000)], separators=(",", ":")),
        "a bit longer": answer[: tokenizing.COUNTED_TOKENS * tokenizing.CHARACTERS_PER_TOKEN + 1],
        "an added token at each cut": "word [MASK] <mask> " * 4000,
    }


@pytest.mark.parametrize("kind", ["bundled", "roberta", "xlm"])
def test_what_is_read_gives_the_ids_of_the_whole(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    mine = reader(tokenizer, tmp_path)
    for name, text in long_texts().items():
        if kind == "xlm" and name in ("no blanks", "json"):  # nothing is known of where their words end
            with pytest.raises(tokenizing.TextError, match="do not say what its first 512 tokens are"):
                mine.read([text], [512])
            continue
        (whole,) = mine.token_ids([text])
        for limit in (1, 17, 100_000):
            (row,), (count,) = mine.read([text], [limit])
            assert row == mine.truncate(whole, limit), (name, limit)
            assert min(len(whole), tokenizing.COUNTED_TOKENS) <= count <= len(whole), (name, limit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" " * 500_000, []),
        ("\n" * 500_000 + "end", ["end"]),
        ("a" * 500_000 + " end", ["[UNK]", "end"]),
        (("b" * 99 + "  ") * 3 + "c" * 900_000, ["[UNK]"]),
        ("x" * 300_000 + "!" + "7" * 300_000, ["[UNK]", "!", "[UNK]"]),
    ],
)
def test_blanks_and_endless_words_are_read_to_their_end(text: str, expected: list[str], tmp_path: Path) -> None:
    tokenizer = KINDS["bundled"]()
    (row,), (count,) = reader(tokenizer, tmp_path).read([text], [512])
    whole = tokenizer.encode(text)
    assert (row, count) == (whole.ids, len(whole.ids))
    assert whole.tokens[-1 - len(expected) : -1] == expected


@pytest.mark.parametrize("character", ["\u0301", "\x00", "ж", "각"])
def test_a_text_whose_beginning_says_too_little_is_refused(character: str, tmp_path: Path) -> None:
    mine = reader(KINDS["bundled"](), tmp_path)
    assert mine.read([character * mine.most_characters], [512])[0] == mine.token_ids([character * mine.most_characters])
    with pytest.raises(tokenizing.TextError, match=r"text in row 1 has 65537 characters, of which the first 65536 do"):
        mine.read(["fine", character * (mine.most_characters + 1)], [512, 512])


def test_few_tokens_need_little(tmp_path: Path) -> None:
    mine = reader(KINDS["bundled"](), tmp_path)
    text = "one two three " + "ж" * 200_000
    assert mine.read([text], [4])[0] == [mine.token_ids(["one two"])[0]]
    with pytest.raises(tokenizing.TextError, match="its first 6 tokens"):
        mine.read([text], [6])


def changed(kind: str, **parts: Any) -> dict[str, Any]:
    return {**json.loads(KINDS[kind]().to_str()), **parts}


LOWER, SQUARE = {"type": "Lowercase"}, {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}
UNKNOWN = [
    changed("plain", pre_tokenizer=None),
    changed("plain", pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "split": False}),
    changed("roberta", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}),
    changed("bundled", normalizer={"type": "Sequence", "normalizers": [LOWER, SQUARE]}),
    changed("bundled", normalizer={"type": "Later"}),
    changed("bundled", added_tokens=[{"content": "two words", "normalized": False, "single_word": False}]),
    changed("roberta", model={"type": "BPE", "dropout": 0.1}),
]


@pytest.mark.parametrize("settings", UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_is_not_known_is_not_cut(settings: dict[str, Any]) -> None:
    assert cuts_module.find_cuts(settings, str) is None


def test_a_normalizer_that_takes_letters_away_is_not_trusted() -> None:
    assert cuts_module.find_cuts(changed("bundled"), lambda text: text.replace("q", "")) is None
    assert cuts_module.find_cuts(changed("bundled"), str) is not None


def test_a_tokenizer_that_is_not_cut_takes_shorter_texts(tmp_path: Path) -> None:
    whole = unigram("plain")
    tokenizer = Tokenizer.from_str(whole.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    mine = reader(tokenizer, tmp_path)
    text = " ".join(answers())[: mine.most_characters]
    (row,), (count,) = mine.read([text], [512])
    assert (row, count) == (mine.token_ids([text])[0][:512], len(mine.token_ids([text])[0]))
    with pytest.raises(tokenizing.TextError, match="text in row 0 has 65537 characters; at most 65536 are accepted"):
        mine.read([text + "."], [512])
