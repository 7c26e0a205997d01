"""From safetensors to served answers, for each architecture, on small random weights."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from rejection_server.graph.float16 import to_float16
from rejection_server.graph.packed import to_packed
from rejection_server.graph.ragged import to_ragged
from rejection_server.graph.varlen import cpu_twin, to_varlen
from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.prepare import build, gate, pipeline
from rejection_server.prepare.options import SAMPLE, Options, read_texts
from rejection_server.prepare.pipeline import prepare
from support import ragged_graphs, tiny_transformers
from support.repository import tokenizing
from support.tiny_transformers import torch, transformers

PACKED = ("albert", "bert", "distilbert", "distilroberta", "electra", "mpnet", "roberta", "xlm-roberta")
"""Those whose graph is recognised; the others are served with a loop, for a GPU padded."""
TEXTS = read_texts(SAMPLE)[:40]


def original_logits(folder: Path) -> NDArray[Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = [tokenizer(text, truncation=True, max_length=128, return_tensors="pt")["input_ids"] for text in TEXTS]
    with torch.inference_mode():
        return np.concatenate([model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for ids in encoded])


def written_logits(repository: Path) -> NDArray[Any]:
    """What the files that were written answer, all texts in one batch, without a server."""
    rows = rows_of(repository)
    session = onnxruntime.InferenceSession(str(repository / "classifier" / "1" / "model.onnx"))
    lengths = np.array([[len(row)] for row in rows], np.int32)
    return np.asarray(session.run(["logits"], {"input_ids": np.concatenate(rows), "sequence_lengths": lengths})[0])


@pytest.mark.parametrize("architecture", sorted(tiny_transformers.ARCHITECTURES))
def test_served_answers_are_those_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(build, "PACKED_SLOWER", float("inf"))  # which form is faster depends on the machine
    folder = tiny_transformers.make(tmp_path / "original", architecture, labels=("calm", "loud", "odd"))
    said: list[str] = []
    padded: list[onnx.ModelProto] = []

    def keep(graph: Path, served: Path, plan: build.Plan) -> build.Built:
        padded.append(onnx.load(graph))
        return build.build(graph, served, plan)

    monkeypatch.setattr(pipeline, "build", keep)
    prepared = prepare(Options(model=str(folder), output=tmp_path / "served", precision="fp32"), said.append)

    assert prepared.precision == "fp32"
    total = prepared.figures[-1]
    assert total.texts >= 200
    assert total.largest <= gate.THRESHOLDS["fp32"].largest, "over gRPC"
    expected = original_logits(folder)
    assert expected.std(axis=0).min() > 0.05, "the texts' answers differ, or equal ones would prove nothing"
    np.testing.assert_allclose(written_logits(prepared.output), expected, atol=1e-4)
    facts = json.loads((prepared.output / "classifier" / "1" / "model.json").read_text())
    assert facts["gate"]["reference"].startswith("the pipeline of transformers")
    assert facts["form"] == ("packed" if architecture in PACKED else "loop")
    assert facts["packed"].startswith("used" if architecture in PACKED else "not used: ")
    assert facts["architecture"] == tiny_transformers.ARCHITECTURES[architecture].model
    assert any(line.endswith("over gRPC on the embedded Triton") for line in said)

    for float16 in (False, True):
        graph = for_tensorrt(padded[0], prepared.output, float16=float16)
        got = ragged_graphs.run(ragged_graphs.session(graph), rows_of(prepared.output))
        np.testing.assert_allclose(got, expected, atol=0.1 if float16 else 1e-4)
        take_by_tensorrt(graph)
        if architecture in PACKED:
            twin = cpu_twin(to_varlen(padded[0], heads=4, float16=float16))
            got = ragged_graphs.run(ragged_graphs.session(twin), rows_of(prepared.output))
            np.testing.assert_allclose(got, expected, atol=0.1 if float16 else 1e-4)


def for_tensorrt(padded: onnx.ModelProto, repository: Path, *, float16: bool) -> onnx.ModelProto:
    model = to_float16(padded) if float16 else padded
    said = onnx.load(repository / "classifier" / "1" / "model.onnx").metadata_props
    accepted = TokenIds.of({entry.key: entry.value for entry in said})
    assert accepted is not None
    return to_ragged(model, accepted=accepted, form="tensorrt")


def take_by_tensorrt(graph: onnx.ModelProto) -> None:
    """Have TensorRT's own parser take the graph, where it is installed; `test_engine_build` is skipped where not."""
    try:
        trt = importlib.import_module("tensorrt_rtx_bindings")
    except ImportError:
        return
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(graph.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]


def rows_of(repository: Path) -> list[ragged_graphs.Ids]:
    tokenizer = tokenizing().TextTokenizer(repository / "tokenizer" / "1" / "tokenizer.json", 128)
    return [np.asarray(tokenizer.truncate(ids, 128)) for ids in tokenizer.token_ids(TEXTS)]


class Scores(torch.nn.Module):  # type: ignore[misc]  # its types are not looked at
    """What exporters are given: ids and mask to logits, the mask given as it is or as a sum, as older releases do."""

    def __init__(self, model: Any, mask: str) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        if self.mask == "added":
            attention_mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


@dataclass(frozen=True)
class Style:
    """How an exporter writes a model."""

    attention: str
    """Implementation of the attention."""
    mask: str
    """given or added: see `Scores`."""
    opset: int
    dynamo: bool = False


def export(folder: Path, path: Path, style: Style) -> None:
    """Write the classifier in `folder` to `path` as ONNX."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation=style.attention)
    ids = torch.randint(5, 90, (2, 9))
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["logits"]}
    if style.dynamo:
        axes = {0: torch.export.Dim("rows", min=1, max=64), 1: torch.export.Dim("tokens", min=2, max=128)}
        shapes = {"dynamic_shapes": (axes, axes), "verbose": False, "external_data": False}
    else:
        axes = {0: "batch_size", 1: "sequence_length"}
        shapes = {"dynamic_axes": {"input_ids": axes, "attention_mask": axes, "logits": {0: "batch_size"}}}
    given = (ids, torch.ones_like(ids))
    torch.onnx.export(
        Scores(model.eval(), style.mask).eval(),
        given,
        path,
        opset_version=style.opset,
        dynamo=style.dynamo,
        **names,
        **shapes,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["roberta", "bert", "distilbert"])
@pytest.mark.parametrize(
    "style",
    [
        Style("eager", "given", 14),
        Style("eager", "added", 11),
        Style("sdpa", "given", 14),
        Style("sdpa", "given", 18, dynamo=True),
    ],
    ids=["eager 14", "added mask 11", "sdpa 14", "sdpa 18 by dynamo"],
)
def test_exports_of_every_style_are_recognised(tmp_path: Path, architecture: str, style: Style) -> None:
    folder = tiny_transformers.make(tmp_path / "original", architecture, labels=("calm", "loud", "odd"))
    export(folder, tmp_path / "model.onnx", style)
    # They compare the answers themselves.
    to_packed(onnx.load(tmp_path / "model.onnx"), heads=4)
    to_varlen(onnx.load(tmp_path / "model.onnx"), heads=4)
    onnxruntime.InferenceSession(to_float16(onnx.load(tmp_path / "model.onnx")).SerializeToString())


@pytest.mark.filterwarnings("ignore")
def test_a_repository_with_an_onnx_file_of_its_own_is_served_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published model's kind: RoBERTa, its ONNX file written by PyTorch's older exporter."""
    monkeypatch.setattr(build, "PACKED_SLOWER", float("inf"))
    folder = tiny_transformers.make(tmp_path / "original", "roberta", settings={"initializer_range": 0.1})
    (folder / "onnx").mkdir()
    export(folder, folder / "onnx" / "model.onnx", Style("eager", "given", 14))
    prepared = prepare(Options(model=str(folder), output=tmp_path / "served", agreement=0.9))
    assert (prepared.facts["form"], prepared.precision) == ("packed", "int8")
    assert "onnx/model.onnx" in prepared.facts["inputs_sha256"]
    assert prepared.figures[-1].mean <= gate.THRESHOLDS["int8"].mean, "over gRPC"
    np.testing.assert_allclose(written_logits(prepared.output), original_logits(folder), atol=0.1)
