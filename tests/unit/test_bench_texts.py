"""The benchmark's texts: always the same, of the lengths they claim."""

import pytest

from bench.compose import (
    PROFILE,
    long_texts,
    mixed_texts,
    roberta_tokenizer,
    short_texts,
    target_lengths,
    texts_of_length,
    token_percentiles,
)
from bench.plan import workload
from bench.settings import WORKLOADS


def test_lengths_follow_the_profile() -> None:
    texts = mixed_texts()
    percentiles = token_percentiles(texts)
    wanted = {f"p{round(share * 100)}": tokens for share, tokens in PROFILE if 0 < share < 1}
    assert wanted == {"p5": 15, "p25": 72, "p50": 147, "p75": 245, "p95": 512}
    for share, tokens in wanted.items():
        assert percentiles[share] == pytest.approx(tokens, rel=0.05, abs=1), share
    assert len(set(texts)) == len(texts) == 400


def test_texts_are_the_same_every_time_and_another_seed_gives_others() -> None:
    assert mixed_texts(20) == mixed_texts(20)
    assert mixed_texts(20) != mixed_texts(20, seed=1)


def test_order_of_lengths_is_random() -> None:
    lengths = list(map(len, mixed_texts(40)))
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


def test_short_texts_differ_and_have_one_length() -> None:
    texts = short_texts()
    assert len(set(texts)) == len(texts) == 4096
    assert {len(encoding.ids) for encoding in roberta_tokenizer().encode_batch(texts[::100])} <= {15, 16, 17}


def test_long_texts_fill_the_longest_input() -> None:
    assert min(len(encoding.ids) for encoding in roberta_tokenizer().encode_batch(long_texts())) >= 512


@pytest.mark.parametrize("tokens", [16, 64, 256])
def test_texts_of_a_length(tokens: int) -> None:
    counts = [len(encoding.ids) for encoding in roberta_tokenizer().encode_batch(texts_of_length(tokens, 8))]
    assert max(counts) <= tokens
    assert min(counts) >= tokens - 2


def test_target_lengths_rise_and_stay_within_the_profile() -> None:
    lengths = target_lengths(400)
    assert lengths == sorted(lengths)
    assert PROFILE[0][1] <= lengths[0]
    assert lengths[-1] <= PROFILE[-1][1]


def test_workloads_are_sent_as_they_say() -> None:
    assert {name: workload(name).batch for name in WORKLOADS} == {"mixed": 1, "short": 1, "long": 1, "batch": 32}
    with pytest.raises(ValueError, match=r"no workload none: choose from mixed"):
        workload("none")


def test_the_tokenizer_is_roberta_s() -> None:
    assert roberta_tokenizer().encode("Hello world").ids == [0, 31414, 232, 2]
