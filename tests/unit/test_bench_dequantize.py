"""The bundled model's float32 form: read out of the packed int8 graph, written as a plain padded one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from bench.bert_graph import padded_float32
from bench.dequantize import Bert, DequantizeError, bert_config, read_packed
from bench.models import quantize, session
from bench.paths import REPOSITORY
from rejection_server.graph.packed import to_packed

RESPONSES = Path(__file__).parents[1] / "data" / "responses.jsonl"
SERVED = REPOSITORY / "classifier" / "1" / "model.onnx"
LAYERS, HEADS, HIDDEN, INNER, WORDS, POSITIONS, LABELS = 2, 4, 32, 48, 96, 90, 3


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundled") / "float32.onnx"
    onnx.save(padded_float32(read_packed(onnx.load(SERVED))), path)
    return path


@pytest.fixture(scope="module")
def rows():
    """Ten texts in ids, from the shortest to the longest."""
    tokenizer = Tokenizer.from_file(str(REPOSITORY / "tokenizer" / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    texts = [json.loads(line)["text"] for line in RESPONSES.read_text(encoding="utf-8").strip().split("\n")]
    ids = sorted((encoding.ids for encoding in tokenizer.encode_batch(texts)), key=len)
    return [ids[round(place)] for place in np.linspace(0, len(ids) - 1, 10)]


def small() -> Bert:
    """Random weights, of a shape that no part shares with another."""
    random = np.random.default_rng(7)
    weights = {}

    def linear(name, inputs, outputs) -> None:
        weights[f"{name}.weight"] = (random.standard_normal((outputs, inputs)) / inputs**0.5).astype(np.float32)
        weights[f"{name}.bias"] = random.standard_normal(outputs).astype(np.float32)

    def norm(name) -> None:
        weights[f"{name}.weight"] = random.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
        weights[f"{name}.bias"] = random.standard_normal(HIDDEN).astype(np.float32)

    for name, size in (("word", WORDS), ("position", POSITIONS), ("token_type", 2)):
        weights[f"bert.embeddings.{name}_embeddings.weight"] = random.standard_normal((size, HIDDEN)).astype(np.float32)
    norm("bert.embeddings.LayerNorm")
    for index in range(LAYERS):
        layer = f"bert.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        linear(f"{layer}.intermediate.dense", HIDDEN, INNER)
        linear(f"{layer}.output.dense", INNER, HIDDEN)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    linear("bert.pooler.dense", HIDDEN, HIDDEN)
    linear("classifier", HIDDEN, LABELS)
    return Bert(weights, HEADS, 1e-6)


def ask_padded(runner, batch):
    longest = max(map(len, batch))
    ids = np.zeros((len(batch), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, given in enumerate(batch):
        ids[row, : len(given)] = given
        mask[row, : len(given)] = 1
    return runner.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def ask_served(runner, batch):
    lengths = np.asarray([[len(row)] for row in batch], np.int32)
    return runner.run(["logits"], {"input_ids": np.concatenate(batch).astype(np.int64), "sequence_lengths": lengths})[0]


def probabilities(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_float32_form_answers_as_the_served_model(padded, rows) -> None:
    runner = session(padded)
    floats = np.concatenate([ask_padded(runner, [row]) for row in rows])
    served = ask_served(session(SERVED), rows)
    assert np.ptp(probabilities(floats)[:, 0]) > 0.5, "texts of both labels are compared"
    np.testing.assert_allclose(probabilities(floats), probabilities(served), atol=0.05)


def test_padding_changes_no_answer(padded, rows) -> None:
    runner = session(padded)
    batch = rows[1:8:2]
    alone = np.concatenate([ask_padded(runner, [row]) for row in batch])
    np.testing.assert_allclose(ask_padded(runner, batch), alone, atol=1e-4)


def test_onnxruntime_quantises_the_float32_form(padded, rows, tmp_path) -> None:
    quantize(padded, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < padded.stat().st_size / 3
    exact, rough = (ask_padded(session(path), rows[:1]) for path in (padded, tmp_path / "int8.onnx"))
    # One scale for a whole tensor of activations is coarse.
    np.testing.assert_allclose(probabilities(rough), probabilities(exact), atol=0.2)


def test_float32_form_has_a_packed_form(padded, rows) -> None:
    model = onnx.load(padded)
    packed = to_packed(model, heads=read_packed(onnx.load(SERVED)).heads)
    runner = session(padded)
    alone = np.concatenate([ask_padded(runner, [row]) for row in rows[:6]])
    got = ask_served(_in_memory(packed), rows[:6])
    np.testing.assert_allclose(got, alone, atol=1e-3)


def test_weights_that_went_in_come_out() -> None:
    original = small()
    read = read_packed(to_packed(padded_float32(original), heads=HEADS, int8=True))
    assert (read.heads, read.epsilon, read.layers, read.labels) == (HEADS, 1e-6, LAYERS, LABELS)
    assert read.weights.keys() == original.weights.keys()
    for name, before in original.weights.items():
        after = read.weights[name]
        assert after.shape == before.shape, name
        if name.endswith(("key.bias", "value.bias", "output.dense.bias", "_embeddings.weight")):
            continue  # see below
        # int8 has 127 levels on either side of 0; a level is what the largest weight of a column makes it.
        step = np.abs(before).max(axis=-1, keepdims=True) / 127 if before.ndim == 2 else 1e-5
        assert (np.abs(after - before) <= step * 0.51).all(), name


def test_what_was_moved_is_where_it_was_moved_to() -> None:
    original = small().weights
    read = read_packed(to_packed(padded_float32(small()), heads=HEADS, int8=True)).weights
    embeddings, attention = "bert.embeddings", "bert.encoder.layer.1.attention"
    positions = original[f"{embeddings}.position_embeddings.weight"]
    kind = original[f"{embeddings}.token_type_embeddings.weight"]
    np.testing.assert_allclose(read[f"{embeddings}.position_embeddings.weight"], positions + kind[0], atol=1e-5)
    assert not read[f"{embeddings}.token_type_embeddings.weight"].any()
    assert not read[f"{attention}.self.key.bias"].any()
    assert not read[f"{attention}.self.value.bias"].any()
    out = original[f"{attention}.output.dense.weight"] @ original[f"{attention}.self.value.bias"]
    out += original[f"{attention}.output.dense.bias"]
    np.testing.assert_allclose(read[f"{attention}.output.dense.bias"], out, atol=1e-5)


def test_form_with_the_original_weights_answers_as_they_did() -> None:
    """Without quantisation nothing is lost on the way into the packed form."""
    padded = padded_float32(small())
    random = np.random.default_rng(1)
    batch = [random.integers(0, WORDS, length).tolist() for length in (1, 5, 17, 64, 90)]
    runner = _in_memory(padded)
    alone = np.concatenate([ask_padded(runner, [row]) for row in batch])
    np.testing.assert_allclose(ask_served(_in_memory(to_packed(padded, heads=HEADS)), batch), alone, atol=1e-4)
    np.testing.assert_allclose(ask_padded(runner, batch), alone, atol=1e-4)


def test_config_tells_the_shape() -> None:
    config = bert_config(small(), ("A", "B", "C"))
    expected = {
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "vocab_size": WORDS,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-6,
        "id2label": {"0": "A", "1": "B", "2": "C"},
    }
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: padded_float32(small()), "expected one Loop"),
        (lambda: to_packed(padded_float32(small()), heads=HEADS), "it is not int8"),
    ],
    ids=["padded", "float32"],
)
def test_other_graphs_are_refused(model, said) -> None:
    with pytest.raises(DequantizeError, match=said):
        read_packed(model())


def _in_memory(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
