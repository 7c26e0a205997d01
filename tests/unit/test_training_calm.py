"""The last step of training, on a tiny model: read back from its int8 file, its head taught everyday sentences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from support.repository import REPOSITORY
from training.data import Row, Split

torch = pytest.importorskip("torch", reason="PyTorch is not installed: scripts/install train")
torch.set_num_threads(1)  # for so small a model threads only get in each other's way
TOKENIZER = REPOSITORY / "tokenizer" / "1" / "tokenizer.json"
TEXTS = ["Sorry, but I can't assist with that.", "Boil the water first.", "No problem, I'll send it.", "a " * 90]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights, in the form that is published."""
    from transformers import BertConfig, BertForSequenceClassification

    from training.export import export_padded, to_served

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 96}
    model = BertForSequenceClassification(BertConfig(vocab_size=30522, max_position_embeddings=128, **shape))
    for parameter in model.parameters():  # biases and norms begin as constants, which would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    export_padded(model, folder / "padded.onnx", 128)
    to_served(folder / "padded.onnx", folder / "model.onnx", 12)
    return folder / "model.onnx"


@pytest.fixture
def loaded(served: Path) -> Any:
    from training.published import load_published

    return load_published(served, TOKENIZER)


def weights(model: ModelProto) -> dict[str, Any]:
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}


def test_a_published_model_is_read_back(served: Path, loaded: Any, tmp_path: Path) -> None:
    import onnx

    from training.export import export_padded, to_served
    from training.finetune import logits_of
    from training.judge import served_logits

    model, tokenizer = loaded
    expected = served_logits(served, TOKENIZER, TEXTS, 128)
    np.testing.assert_allclose(logits_of(model, tokenizer, TEXTS, 128), expected, atol=0.1 * float(np.ptp(expected)))
    export_padded(model, tmp_path / "padded.onnx", 128)
    to_served(tmp_path / "padded.onnx", tmp_path / "model.onnx", 12)
    before, after = weights(onnx.load(served)), weights(onnx.load(tmp_path / "model.onnx"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        if name.endswith("_int8"):
            np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_calming_teaches_the_head_alone(loaded: Any) -> None:
    from training import calm
    from training.everyday import everyday_rows

    model, tokenizer = loaded
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = calm.Recipe(everyday=80, everyday_weight=1.0, transfer=0, max_length=128, epochs=60)
    texts, labels = zip(*everyday_rows(recipe.seed, recipe.everyday), strict=True)
    features = calm.first_tokens(model, tokenizer, texts, recipe.max_length)

    def given() -> float:
        """Mean probability of the label."""
        return float(calm.logits(model, features).softmax(dim=1)[range(len(labels)), labels].mean())

    start = given()
    said: list[str] = []
    calm.calm(model, tokenizer, Split([Row("The past tense is regular.", 0, "xstest")], []), recipe, said.append)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{part}.{kind}" for part in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")}
    assert any("81 texts" in line for line in said)
    assert given() > start + 0.1


def test_calming_without_everyday_rows_changes_no_opinion(loaded: Any) -> None:
    from training import calm

    model, tokenizer = loaded
    rows = [Row(f"Rule {n} of the book: {text}", 0, "xstest") for n in range(10) for text in TEXTS[:3]]
    features = calm.first_tokens(model, tokenizer, [row.text for row in rows], 128)
    opinions = calm.logits(model, features).softmax(dim=1)
    recipe = calm.Recipe(everyday=0, transfer=0, max_length=128, learning_rate=1e-3)
    calm.calm(model, tokenizer, Split(rows, []), recipe, lambda _: None)
    assert (calm.logits(model, features).softmax(dim=1) - opinions).abs().max() < 0.05
