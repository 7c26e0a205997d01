"""Each row has its own answer in every form, whatever shares its batch: empty rows, filler, ids of no token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from rejection_server.graph.packed import to_packed
from rejection_server.graph.quantize import quantize_per_token
from rejection_server.graph.ragged import to_ragged
from rejection_server.graph.varlen import cpu_twin, to_varlen
from rejection_server.onnx_backend.token_ids import LONGEST_ROW, VOCABULARY_SIZE, TokenIds
from support.bert_graph import HEADS, POSITIONS, WORDS, bert
from support.ragged_graphs import Ids, feed, session

LONGEST = POSITIONS - 2
"""A row as long as this fits all of them: RoBERTa's first position is the third."""
ACCEPTED = TokenIds(WORDS, LONGEST)
ROUNDS = 12


@dataclass(frozen=True)
class Form:
    """A way to make the served graph from a padded classifier, and how near its answers are to that."""

    make: Callable[[ModelProto], ModelProto]
    tolerance: float
    exact: bool = False
    """Whether a row's scores are the same to the last bit, alone and in any batch."""


FORMS = {
    "loop": Form(lambda model: to_ragged(model, accepted=ACCEPTED, form="loop"), 1e-5, exact=True),
    "loop int8": Form(lambda model: to_ragged(quantize_per_token(model), accepted=ACCEPTED, form="loop"), 0.5, True),
    "padded": Form(lambda model: to_ragged(model, accepted=ACCEPTED, form="padded"), 1e-5),
    "tensorrt": Form(lambda model: to_ragged(model, accepted=ACCEPTED, form="tensorrt"), 1e-5),
    "packed": Form(lambda model: to_packed(model, heads=HEADS), 1e-5),
    "packed int8": Form(lambda model: to_packed(model, heads=HEADS, int8=True), 0.5, exact=True),
    "varlen": Form(lambda model: cpu_twin(to_varlen(model, heads=HEADS, float16=False)), 1e-5),
    "varlen float16": Form(lambda model: cpu_twin(to_varlen(model, heads=HEADS)), 1e-2),
}


@pytest.fixture(scope="module", params=["bert", "roberta", "mpnet"])
def original(request: pytest.FixtureRequest) -> ModelProto:
    return bert(roberta=request.param != "bert", bias="Sub" if request.param == "mpnet" else "")


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.fixture(scope="module")
def served(original: ModelProto, form: Form) -> Any:
    return session(form.make(original))


@pytest.fixture(scope="module")
def alone(original: ModelProto) -> Callable[[Ids], NDArray[np.float32]]:
    """What the padded classifier makes of a row's tokens, nothing else around; [labels]."""
    runner = session(original)

    def answer(row: Ids) -> NDArray[np.float32]:
        tokens = row[row != -1]
        if tokens.size > LONGEST or (tokens < 0).any() or (tokens >= WORDS).any():
            return np.full(3, np.nan, np.float32)
        ids = (tokens if tokens.size else np.array([0]))[None].astype(np.int64)
        logits: NDArray[np.float32] = runner.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[
            0
        ][0]
        return logits

    return answer


def batch(random: np.random.Generator, *, invalid: bool) -> list[Ids]:
    """Rows of 0 to 90 tokens, many of them short; some with filler in front, within and behind."""
    rows = []
    for length in random.integers(0, random.choice([3, 20, 90]), random.integers(1, 13)):
        row = random.integers(0, WORDS, length)
        if random.random() < 0.4:
            row = np.insert(row, random.integers(0, len(row) + 1, random.integers(1, 6)), -1)
        if invalid and random.random() < 0.3:
            row = np.insert(row, random.integers(0, len(row) + 1), random.choice([-2, WORDS, -(2**63), 2**63 - 1]))
        rows.append(row.astype(np.int64))
    if invalid and random.random() < 0.3:
        rows.insert(random.integers(0, len(rows) + 1), random.integers(5, WORDS, LONGEST + random.integers(1, 300)))
    return rows


def run(runner: Any, rows: Sequence[Ids], output: str = "logits") -> NDArray[np.float32]:
    result: NDArray[np.float32]
    (result,) = runner.run([output], feed(runner, rows))
    return result


@pytest.mark.parametrize("invalid", [False, True], ids=["valid", "invalid"])
def test_a_row_is_answered_as_if_alone(
    served: Any, form: Form, alone: Callable[[Ids], NDArray[np.float32]], invalid: bool
) -> None:
    random = np.random.default_rng(7 + invalid)
    for _ in range(ROUNDS):
        rows = batch(random, invalid=invalid)
        together = run(served, rows)
        np.testing.assert_allclose(together, [alone(row) for row in rows], atol=form.tolerance)
        singly = np.concatenate([run(served, [row]) for row in rows])
        np.testing.assert_allclose(together, singly, rtol=0, atol=0 if form.exact else 1e-5)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("row", [[], [-1], [-1, -1, -1]], ids=len)
def test_an_empty_row_is_the_one_token_0(served: Any, row: list[int], place: int) -> None:
    empty, zero = np.array(row, np.int64), np.array([0], np.int64)
    others = [np.arange(5, 25, dtype=np.int64), np.arange(100, 107, dtype=np.int64)]
    expected = run(served, [*others[:place], zero, *others[place:]])
    got = run(served, [*others[:place], empty, *others[place:]])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(served, [empty, empty]), run(served, [zero, zero]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("row", [[7, WORDS], [-2], [-1, 9, -7, -1], list(range(1, POSITIONS + 2))], ids=len)
def test_no_answer_is_no_number(served: Any, row: list[int]) -> None:
    good = np.arange(5, 25, dtype=np.int64)
    for output in ("logits", "probabilities"):
        got = run(served, [good, np.array(row, np.int64), good], output)
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[[0, 2]]).all()


def test_the_longest_row_fits(served: Any, form: Form, alone: Callable[[Ids], NDArray[np.float32]]) -> None:
    row = np.insert(np.random.default_rng(1).integers(5, WORDS, LONGEST), [0, 100, LONGEST], -1)
    np.testing.assert_allclose(run(served, [row]), [alone(row)], atol=form.tolerance)


def test_the_file_says_what_it_accepts(served: Any) -> None:
    said = served.get_modelmeta().custom_metadata_map
    assert TokenIds.of(said) in (ACCEPTED, TokenIds(WORDS, POSITIONS))
    assert TokenIds.of({VOCABULARY_SIZE: said[VOCABULARY_SIZE]}) is TokenIds.of({LONGEST_ROW: "9"}) is None
