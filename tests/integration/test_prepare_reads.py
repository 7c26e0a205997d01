"""Models in the forms that people have them in, below the server: read, merged, exported, and answering as before."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import sentencepiece
from safetensors.torch import load_file, save_file

from rejection_server.graph.walk import GraphError
from rejection_server.prepare.adapter import merged
from rejection_server.prepare.build import Plan, write_graph
from rejection_server.prepare.describe import Description, describe
from rejection_server.prepare.errors import CorruptedError, SourceError, UnsupportedError
from rejection_server.prepare.export import check_weights, export
from rejection_server.prepare.options import SAMPLE, read_texts
from rejection_server.prepare.source import Source, find_source
from rejection_server.prepare.tokenizer import tokens_as_served, write_served_tokenizer
from rejection_server.prepare.whole import check_whole, stored_as
from support import tiny_transformers
from support.repository import RESPONSES
from support.tiny_transformers import torch, transformers

TEXTS = read_texts(SAMPLE)[:40]


def logits_of(model: Any, rows: Sequence[tuple[int, ...]]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        given = [torch.tensor([row]) for row in rows]
        return np.concatenate([model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for ids in given])


@pytest.mark.parametrize(("architecture", "pad"), [("gpt2", False), ("llama", True)])
def test_decoders_score_the_last_token(tmp_path: Path, architecture: str, pad: bool) -> None:
    settings = {} if pad else {"pad_token_id": None}
    folder = tiny_transformers.make(tmp_path / "original", architecture, settings=settings)
    described, rows, expected = exported_and_compared(folder, tmp_path)
    on_gpu = Plan(described, "fp32", "gpu", packed=False)
    if pad:
        write_graph(tmp_path / "padded.onnx", tmp_path / "batch.onnx", on_gpu)
        np.testing.assert_allclose(scores(tmp_path / "batch.onnx", rows), expected, atol=1e-4)
    else:
        with pytest.raises((UnsupportedError, GraphError), match="takes one text at a time, and a GPU needs many"):
            write_graph(tmp_path / "padded.onnx", tmp_path / "batch.onnx", on_gpu)


@pytest.mark.parametrize("architecture", ["mbart", "xlnet"])
def test_those_that_are_not_exported_as_they_are(tmp_path: Path, architecture: str) -> None:
    exported_and_compared(tiny_transformers.make(tmp_path / "original", architecture), tmp_path)


def exported_and_compared(
    folder: Path, work: Path
) -> tuple[Description, tuple[tuple[int, ...], ...], np.ndarray[Any, Any]]:
    """What is known of the model, rows of ids, and its logits for them, which the served loop gives, too.

    Leaves the padded graph in `work`.
    """
    described = describe(folder, None, None)
    export(folder, "model.safetensors", described, work / "padded.onnx")
    rows = ids_as_served_by(folder, work)
    write_graph(work / "padded.onnx", work / "loop.onnx", Plan(described, "fp32", "cpu", packed=False))
    expected = logits_of(transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval(), rows)
    assert expected.std(axis=0).min() > 0.05
    np.testing.assert_allclose(scores(work / "loop.onnx", rows), expected, atol=1e-4)
    return described, rows, expected


def ids_as_served_by(folder: Path, work: Path) -> tuple[tuple[int, ...], ...]:
    """Token ids of the texts as the server makes them, which must be those of the original."""
    write_served_tokenizer(folder, work / "tokenizer.json", 128)
    rows, _ = tokens_as_served(work / "tokenizer.json", TEXTS, 128)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = [tuple(tokenizer(text, truncation=True, max_length=128)["input_ids"]) for text in TEXTS]
    assert list(rows) == [ids or (0,) for ids in expected]
    return rows


def scores(graph: Path, rows: Sequence[tuple[int, ...]]) -> np.ndarray[Any, Any]:
    """Logits of all rows in one batch."""
    session = onnxruntime.InferenceSession(str(graph))
    lengths = np.array([[len(row)] for row in rows], np.int32)
    return np.asarray(session.run(["logits"], {"input_ids": np.concatenate(rows), "sequence_lengths": lengths})[0])


@pytest.mark.parametrize(
    ("name", "tokenizer", "options"),
    [
        ("spm.model", "DebertaV2Tokenizer", {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "unk_piece": "[UNK]"}),
        ("sentencepiece.bpe.model", "XLMRobertaTokenizer", {}),
        ("tokenizer.model", "LlamaTokenizer", {"model_type": "bpe", "byte_fallback": True}),
    ],
)
def test_tokenizers_of_sentencepiece_alone(tmp_path: Path, name: str, tokenizer: str, options: dict[str, Any]) -> None:
    texts = [json.loads(line)["text"] for line in RESPONSES.read_text(encoding="utf-8").splitlines()]
    folder = tiny_transformers.make(tmp_path / "original", "bert")
    (folder / "tokenizer.json").unlink()
    with (folder / name).open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=400, minloglevel=2, **options
        )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer, "model_max_length": 128}))
    source = find_source(str(folder), None, has_torch=True)
    assert name in source.files
    check_whole(source)
    rows = ids_as_served_by(folder, tmp_path)
    assert len({token for row in rows for token in row}) > 100, "not only unknown ones"
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptedError, match=rf"{name} is no SentencePiece model .*: fetch it again"):
        check_whole(source)


def test_pickles_in_several_files(tmp_path: Path) -> None:
    folder = tiny_transformers.make(tmp_path / "original", "bert")
    expected = logits_of(transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval(), [(1, 2, 3)])
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"pytorch_model-0000{part}-of-00002.bin": names[part - 1 :: 2] for part in (1, 2)}
    for name, held in parts.items():
        torch.save({key: tensors[key] for key in held}, folder / name)
    places = {key: name for name, held in parts.items() for key in held}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with pytest.raises(UnsupportedError, match=r"pytorch_model\.bin\.index\.json, a pickle, .* --allow-pickle"):
        find_source(str(folder), None, has_torch=True)
    source = find_source(str(folder), None, has_torch=True, allow_pickle=True)
    assert source.weights == index.name
    assert set(parts) < set(source.files)
    check_whole(source)
    check_weights(folder, source.weights, describe(folder, None, None))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=False).eval()
    np.testing.assert_allclose(logits_of(model, [(1, 2, 3)]), expected, atol=1e-6)
    (folder / sorted(parts)[0]).write_bytes(b"<html>")
    with pytest.raises(CorruptedError, match="it is no file that PyTorch wrote"):
        check_whole(source)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    folder = tiny_transformers.make(tmp_path / "original", "bert")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"][1, 3] = float(value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    says = r"1 of the 64 numbers of classifier\.weight in model\.safetensors are NaN or infinite"
    with pytest.raises(CorruptedError, match=says):
        check_weights(folder, "model.safetensors", describe(folder, None, None))


def test_half_precision_is_said(tmp_path: Path) -> None:
    folder = tiny_transformers.make(tmp_path / "original", "bert")
    tensors = load_file(folder / "model.safetensors")
    halved = {name: values.to(torch.bfloat16) for name, values in tensors.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    source = find_source(str(folder), None, has_torch=True)
    check_whole(source)
    assert stored_as(source) == "bf16"
    check_weights(folder, "model.safetensors", describe(folder, None, None))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of two labels and an adapter with three."""
    peft = pytest.importorskip("peft", reason="adapters are merged with peft: scripts/install export")
    folder = tmp_path_factory.mktemp("adapted")
    tiny_transformers.make(folder / "base", "bert", labels=("one", "two"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "base", num_labels=3, ignore_mismatched_sizes=True
    )
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False)
    adapter = peft.get_peft_model(model, settings).eval()
    adapter.save_pretrained(folder / "adapter")
    np.save(folder / "expected.npy", logits_of(adapter, [(1, 2, 3), (7,)]))
    return folder


def test_an_adapter_is_merged_into_its_base(tmp_path: Path, adapted: Path) -> None:
    source = find_source(str(adapted / "adapter"), None, has_torch=True)
    assert isinstance(source.base, Source)
    check_whole(source)
    whole = merged(source, tmp_path / "merged")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(whole.files)
    assert whole.title == "adapter"
    assert set(whole.checksums()) >= {"adapter_model.safetensors", "base/model.safetensors"}
    described = describe(whole.folder, None, None)
    assert described.labels == ("LABEL_0", "LABEL_1", "LABEL_2"), "the base's two names are not of these"
    check_weights(whole.folder, "model.safetensors", described)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(whole.folder).eval()
    expected = np.load(adapted / "expected.npy")
    np.testing.assert_allclose(logits_of(model, [(1, 2, 3), (7,)]), expected, atol=1e-4)


def test_labels_are_the_adapters_own_where_it_has_any(tmp_path: Path, adapted: Path) -> None:
    folder = shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "calm", "1": "loud", "2": "odd"}}))
    whole = merged(find_source(str(folder), None, has_torch=True), tmp_path / "merged")
    assert describe(whole.folder, None, None).labels == ("calm", "loud", "odd")


def test_adapters_that_cannot_be_merged(tmp_path: Path, adapted: Path) -> None:
    folder = shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")

    def changed(**values: Any) -> Source:
        (folder / "adapter_config.json").write_text(json.dumps(settings | values))
        return find_source(str(folder), None, has_torch=True)

    with pytest.raises(UnsupportedError, match="its task_type is CAUSAL_LM, not SEQ_CLS"):
        merged(changed(task_type="CAUSAL_LM"), tmp_path / "merged")
    with pytest.raises(SourceError, match=r"the base of the adapter .* cannot be used: there is no folder /no/where"):
        changed(base_model_name_or_path="/no/where")
    with pytest.raises(SourceError, match="does not say which model it changes"):
        changed(base_model_name_or_path=None)
    without_head = {name: values for name, values in tensors.items() if "classifier" not in name}
    save_file(without_head, folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedError, match=r"peft cannot merge|saved without its classifier"):
        merged(changed(modules_to_save=["classifier"]), tmp_path / "merged")
    (folder / "model.safetensors").touch()
    with pytest.raises(UnsupportedError, match=r"both a whole model \(model\.safetensors\) and a PEFT adapter"):
        changed()
