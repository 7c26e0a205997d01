"""The last step of training, on a tiny model: read back from its int8 file, its head taught everyday sentences."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

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


def weights(path: Path) -> dict[str, Any]:
    import onnx

    from training.served import body

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in body(onnx.load(path)).initializer}


def read(served: Path, texts: Sequence[str]) -> Any:
    """What the served encoder makes of the texts' first tokens."""
    from training.served import Served

    return torch.from_numpy(Served(served, TOKENIZER).first_tokens(texts, 128)).float()


def test_a_published_model_is_read_back(served: Path, loaded: Any, tmp_path: Path) -> None:
    from training.export import export_padded, to_served
    from training.finetune import logits_of
    from training.served import Served

    model, tokenizer = loaded
    expected = Served(served, TOKENIZER).logits(TEXTS, 128)
    np.testing.assert_allclose(logits_of(model, tokenizer, TEXTS, 128), expected, atol=0.1 * float(np.ptp(expected)))
    export_padded(model, tmp_path / "padded.onnx", 128)
    to_served(tmp_path / "padded.onnx", tmp_path / "model.onnx", 12)
    before, after = weights(served), weights(tmp_path / "model.onnx")
    assert before.keys() == after.keys()
    for name, array in before.items():
        if name.endswith("_int8"):
            np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_a_new_head_changes_nothing_else(served: Path, loaded: Any, tmp_path: Path) -> None:
    from training import calm
    from training.served import Served

    model, _ = loaded
    with torch.no_grad():
        for parameter in (*model.bert.pooler.parameters(), *model.classifier.parameters()):
            parameter.mul_(-0.7)
    copy = Served(shutil.copyfile(served, tmp_path / "model.onnx"), TOKENIZER)
    copy.replace_head(model)
    before, after = weights(served), weights(copy.model)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        f"model.{part}.{kind}"
        for part in ("bert.pooler.dense", "classifier")
        for kind in ("weight_int8", "weight_scale", "bias")
    }
    expected = calm.logits(model, read(served, TEXTS)).numpy()
    given = copy.logits(TEXTS, 128)
    np.testing.assert_allclose(given, expected, atol=0.1 * float(np.ptp(expected)))


def test_calming_teaches_the_head_alone(served: Path, loaded: Any) -> None:
    from training import calm
    from training.everyday import everyday_rows
    from training.served import Served

    model, _ = loaded
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = calm.Recipe(everyday=80, everyday_weight=1.0, transfer=0, max_length=128, epochs=60, batch=64, runs=2)
    texts, labels = zip(*everyday_rows(recipe.seed, recipe.everyday), strict=True)
    features = read(served, texts)

    def given() -> float:
        """Mean probability of the label."""
        return float(calm.logits(model, features).softmax(dim=1)[range(len(labels)), labels].mean())

    start = given()
    said: list[str] = []
    split = Split([Row("The past tense is regular.", 0, "xstest")], [])
    calm.calm(model, Served(served, TOKENIZER), split, recipe, said.append)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{part}.{kind}" for part in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")}
    assert any("81 texts" in line for line in said)
    assert given() > start + 0.1


def test_calming_without_everyday_rows_changes_no_opinion(served: Path, loaded: Any) -> None:
    from training import calm
    from training.served import Served

    model, _ = loaded
    rows = [Row(f"Rule {n} of the book: {text}", 0, "xstest") for n in range(10) for text in TEXTS[:3]]
    features = read(served, [row.text for row in rows])
    opinions = calm.logits(model, features).softmax(dim=1)
    recipe = calm.Recipe(everyday=0, transfer=0, max_length=128, learning_rate=1e-3)
    calm.calm(model, Served(served, TOKENIZER), Split(rows, []), recipe, lambda _: None)
    assert (calm.logits(model, features).softmax(dim=1) - opinions).abs().max() < 0.05
