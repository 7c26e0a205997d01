"""The checkpoint, from a seed, and the graphs that are made of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.compose import mixed_texts
from bench.gpu.plan import GpuSettings
from bench.gpu.results import Add
from bench.gpu_graphs import NAMES, graphs, write_graphs
from bench.random_model import silent_transformers, write_checkpoint
from rejection_server.graph.from_torch import exported

SERVED = "varlen-fp16"
"""The graph that is served on a GPU."""
TINY = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}


def make(settings: GpuSettings, add: Add) -> None:
    """Write checkpoint and graphs to the working folder, those that are not there yet."""
    checkpoint, exporting = checkpoint_of(settings), settings.work / "padded.onnx"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not (checkpoint / "config.json").is_file():
        write_checkpoint(checkpoint, mixed_texts()[:48], **(TINY if settings.dry else {}))
        add("made", name="checkpoint")
    if not exporting.is_file():
        model = silent_transformers().AutoModelForSequenceClassification.from_pretrained(
            checkpoint, attn_implementation="eager"
        )
        program = exported(model.float().eval(), 512).model_proto
        del program.graph.value_info[:]  # shapes of the exporter's example
        onnx.save(program, exporting)
        add("made", name="padded ONNX file")
    missing = tuple(name for name in names(settings) if not path_of(settings, name).is_file())
    shape = config_of(settings)
    padded = onnx.load(exporting)
    made = graphs(padded, shape["num_attention_heads"], shape["pad_token_id"], missing, twins=settings.dry)
    for name, path in write_graphs(made, path_of(settings, SERVED).parent):
        add("made", name=name, mb=round(path.stat().st_size / 1e6, 1))


def names(settings: GpuSettings) -> tuple[str, ...]:
    """The graphs that are measured."""
    if settings.graphs:
        return settings.graphs
    return ("varlen-fp16", "varlen-fp32", "padded-fp32") if settings.dry else NAMES


def checkpoint_of(settings: GpuSettings) -> Path:
    """Folder of the checkpoint."""
    return settings.work / "checkpoint"


def path_of(settings: GpuSettings, name: str) -> Path:
    """The file of a graph."""
    return settings.work / "graphs" / f"{name}.onnx"


def config_of(settings: GpuSettings) -> dict[str, Any]:
    """The checkpoint's `config.json`."""
    config: dict[str, Any] = json.loads((checkpoint_of(settings) / "config.json").read_text(encoding="utf-8"))
    return config


def probabilities_of(logits: Any) -> Any:
    """Softmax of logits [rows, labels], in float64."""
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
