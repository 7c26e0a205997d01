"""Model folders that are broken in one way each. A folder follows from the seed and its number."""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from support import tiny_transformers
from support.tiny_transformers import torch, transformers

Change = Callable[[random.Random, Path], str]
"""Breaks a folder in place; returns what it did."""

CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
SAFETENSORS, ONNX = "model.safetensors", "onnx/model.onnx"
VALUES: tuple[Any, ...] = (
    *(None, -1, 0, 1, 7, 10**6, 10**12, 10**400, 1.5, float("nan"), True, False, "", "text", "\x1b[31mred\nline"),
    *([], {}, [None], {"a": 1}, [[]], "ä" * 5000, {"0": None}, {"0": "a", "1": "a"}),
)


def make_bases(folder: Path) -> list[Path]:
    """Whole models that are broken later: weights alone, weights and ONNX, ONNX alone, several files of weights."""
    gentle = {"initializer_range": 0.1, "num_hidden_layers": 1}
    weights = tiny_transformers.make(folder / "weights", "bert", settings=gentle)
    both = tiny_transformers.make(folder / "both", "roberta", settings=gentle)
    _export(both)
    alone = shutil.copytree(both, folder / "alone")
    (alone / SAFETENSORS).unlink()
    several = shutil.copytree(weights, folder / "several")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(weights)
    (several / SAFETENSORS).unlink()
    model.save_pretrained(several, max_shard_size="40KB")
    return [weights, both, alone, several]


def _export(folder: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    (folder / "onnx").mkdir()
    axes = {0: "rows", 1: "tokens"}
    ids = torch.randint(5, 90, (2, 9))

    class Scores(torch.nn.Module):  # type: ignore[misc]  # its types are not looked at
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    torch.onnx.export(
        Scores().eval(),
        (ids, torch.ones_like(ids)),
        folder / ONNX,
        opset_version=14,
        dynamo=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "rows"}},
    )


@dataclass(frozen=True)
class Broken:
    """One folder, and how it came to be."""

    number: int
    base: str
    change: str
    """Name of the change."""
    what: str
    allow_pickle: bool


def make(seed: int, number: int, bases: list[Path], folder: Path) -> Broken:
    """Write the broken folder of that number to `folder`."""
    chance = random.Random(f"{seed} {number}")
    names = sorted(CHANGES)
    change = names[number % len(names)] if number < len(names) else chance.choice(names)
    fitting = [base for base in bases if CHANGES[change][1] in ("", *_files(base))]
    base = chance.choice(fitting)
    shutil.copytree(base, folder)
    what = CHANGES[change][0](chance, folder)
    return Broken(number, base.name, change, what, allow_pickle=chance.random() < 0.5)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _any_file(chance: random.Random, folder: Path) -> str:
    return chance.choice(_files(folder))


# ---- whole files


def missing(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    (folder / name).unlink()
    return name


def truncated(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    size = chance.choice([0, 1, 7, 8, 100, (folder / name).stat().st_size // 2, (folder / name).stat().st_size - 1])
    os.truncate(folder / name, size)
    return f"{name} to {size}"


def overwritten(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    content = bytearray((folder / name).read_bytes())
    where = chance.randrange(min(len(content), chance.choice([20, 2000, len(content)])))
    content[where : where + 8] = chance.randbytes(8)
    (folder / name).write_bytes(content)
    return f"{name} at {where}"


def other_content(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    kinds = {
        "zeros": bytes(1000),
        "noise": chance.randbytes(5000),
        "page": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "list": b"[1, 2]",
        "string": b'"text"',
        "object": b"{}",
        "utf-16": json.dumps({"a": 1}).encode("utf-16"),
        "deep": b"[" * 100_000,
        "twice": (folder / name).read_bytes() * 2,
    }
    kind = chance.choice(sorted(kinds))
    (folder / name).write_bytes(kinds[kind])
    return f"{name}: {kind}"


def swapped(chance: random.Random, folder: Path) -> str:
    one, other = chance.sample(_files(folder), 2)
    content = (folder / one).read_bytes()
    (folder / one).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(content)
    return f"{one} and {other}"


def not_a_file(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    path = folder / name
    path.unlink()
    kind = chance.choice(["folder", "pipe", "nowhere", "itself", "device"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"nowhere": "/nowhere", "itself": str(path), "device": "/dev/null"}[kind])
    return f"{name}: {kind}"


def linked(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to(folder / "elsewhere")
    return name


def unreadable(chance: random.Random, folder: Path) -> str:
    name = _any_file(chance, folder)
    (folder / name).chmod(0)
    return name


# ---- JSON


def _set_one(chance: random.Random, path: Path, values: Sequence[tuple[str, Any]]) -> str:
    """Set one of these keys of a JSON file to its value."""

    def change(held: dict[str, Any]) -> str:
        name, value = chance.choice(values)
        held[name] = value
        return f"{name} = {value!r}"

    return _change_json(path, change)


def _change_json(path: Path, change: Callable[[dict[str, Any]], str]) -> str:
    held = json.loads(path.read_text())
    what = change(held)
    path.write_text(json.dumps(held))
    return f"{path.name}: {what}"


def _other_value(chance: random.Random, held: dict[str, Any]) -> str:
    name, value = chance.choice(sorted(held)), chance.choice(VALUES)
    held[name] = value
    return f"{name} = {value!r}"[:80]


def config_value(chance: random.Random, folder: Path) -> str:
    return _change_json(folder / CONFIG, lambda held: _other_value(chance, held))


def config_without(chance: random.Random, folder: Path) -> str:
    def change(held: dict[str, Any]) -> str:
        name = chance.choice(sorted(held))
        del held[name]
        return f"no {name}"

    return _change_json(folder / CONFIG, change)


def config_more(chance: random.Random, folder: Path) -> str:
    more: tuple[tuple[str, Any], ...] = (
        ("auto_map", {"AutoModelForSequenceClassification": "modeling_own.Own"}),
        ("auto_map", 3),
        ("problem_type", "no such type"),
        ("problem_type", 7),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("quantization_config", "text"),
        ("num_labels", 7),
        ("num_labels", "two"),
        ("num_labels", -1),
        ("vocab_size", 10),
        ("vocab_size", 601),
        ("max_position_embeddings", 4),
        ("architectures", ["BertModel"]),
        ("architectures", ["NoSuchForSequenceClassification"]),
        ("architectures", []),
        ("architectures", "BertForSequenceClassification"),
        ("model_type", "no-such-model"),
        ("model_type", "t5"),
        ("id2label", {"0": "a", "1": "a"}),
        ("id2label", {"0": "a"}),
        ("id2label", {"x": "a", "y": "b"}),
        ("id2label", {"0": "a\nb", "1": "c"}),
        ("id2label", {"5": "a", "9": "b"}),
        ("hidden_act", "no-such-function"),
        ("num_attention_heads", 5),
        ("torch_dtype", "no-such-type"),
        ("dtype", "float8"),
        ("transformers_version", None),
    )

    return _set_one(chance, folder / CONFIG, more)


def settings_value(chance: random.Random, folder: Path) -> str:
    return _change_json(folder / SETTINGS, lambda held: _other_value(chance, held))


def settings_more(chance: random.Random, folder: Path) -> str:
    more: tuple[tuple[str, Any], ...] = (
        ("tokenizer_class", "NoSuchTokenizer"),
        ("tokenizer_class", "T5Tokenizer"),
        ("tokenizer_class", 3),
        ("model_max_length", "long"),
        ("model_max_length", -5),
        ("model_max_length", 0),
        ("model_max_length", 1),
        ("model_max_length", 10**30),
        ("auto_map", {"AutoTokenizer": ["tokenization_own.Own", None]}),
        ("truncation_side", "middle"),
        ("padding_side", "left"),
        ("model_input_names", "input_ids"),
        ("model_input_names", ["pixel_values"]),
        ("cls_token", None),
        ("cls_token", {"content": "[NEW]"}),
        ("pad_token", 5),
        ("unk_token", ["a"]),
        ("added_tokens_decoder", {"x": {"content": "a"}}),
        ("added_tokens_decoder", {"99999": {"content": "<new>", "special": True}}),
        ("extra_special_tokens", ["<a>", "<b>"]),
        ("extra_special_tokens", {"a": 3}),
        ("do_lower_case", "yes"),
        ("chat_template", 5),
    )

    return _set_one(chance, folder / SETTINGS, more)


def tokenizer_part(chance: random.Random, folder: Path) -> str:
    def change(held: dict[str, Any]) -> str:
        inner = chance.choice([held, held["model"], *(held["added_tokens"][:1])])
        name = chance.choice(sorted(inner))
        if chance.random() < 0.5:
            del inner[name]
            return f"no {name}"
        return _other_value(chance, inner)

    return _change_json(folder / TOKENIZER, change)


def tokenizer_vocabulary(chance: random.Random, folder: Path) -> str:
    def change(held: dict[str, Any]) -> str:
        vocab = held["model"]["vocab"]
        name = chance.choice(sorted(vocab))
        kind = chance.choice(["huge id", "negative id", "word id", "same id", "gone", "half"])
        if kind == "gone":
            del vocab[name]
        elif kind == "half":
            for word in sorted(vocab)[::2]:
                del vocab[word]
        else:
            vocab[name] = {"huge id": 10**9, "negative id": -1, "word id": "x", "same id": 7}[kind]
        return f"{kind} {name}"

    return _change_json(folder / TOKENIZER, change)


# ---- weights


def weights_numbers(chance: random.Random, folder: Path) -> str:
    return _change_weights(chance, folder, ["nan", "inf", "huge", "zeros"])


def weights_form(chance: random.Random, folder: Path) -> str:
    return _change_weights(
        chance,
        folder,
        ["gone", "renamed", "more", "other shape", "turned", "float16", "float64", "int8", "int64", "all gone"],
    )


def _change_weights(chance: random.Random, folder: Path, kinds: list[str]) -> str:
    tensors = load_file(folder / SAFETENSORS)
    name, kind = chance.choice(sorted(tensors)), chance.choice(kinds)
    values = np.array(tensors[name])
    flat = values.reshape(-1)
    if kind in ("nan", "inf", "huge"):
        flat[chance.randrange(flat.size)] = {"nan": np.nan, "inf": np.inf, "huge": 3e38}[kind]
    elif kind == "zeros":
        values = np.zeros_like(values)
    elif kind == "other shape":
        values = np.concatenate([values, values])
    elif kind == "turned":
        values = np.ascontiguousarray(values.T)
    elif kind in ("float16", "float64", "int8", "int64"):
        values = values.astype(kind)
    tensors[name] = values
    if kind in ("gone", "renamed"):
        del tensors[name]
    if kind in ("renamed", "more"):
        tensors[f"other.{name}"] = values
    save_file({} if kind == "all gone" else tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    return f"{kind} {name}"


def weights_header(chance: random.Random, folder: Path) -> str:
    path = folder / SAFETENSORS
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    kind = chance.choice(["longer", "huge", "type", "offsets", "no metadata"])
    header = content[8 : 8 + size]
    if kind == "longer":
        path.write_bytes((size + 50).to_bytes(8, "little") + content[8:])
    elif kind == "huge":
        path.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    else:
        old, new = {
            "type": (b'"F32"', b'"F99"'),
            "offsets": (b'"data_offsets":[', b'"data_offsets":[9'),
            "no metadata": (b'{"format":"pt"}', b"{}"),
        }[kind]
        header = header.replace(old, new, 1)
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    return kind


def index(chance: random.Random, folder: Path) -> str:
    path = folder / "model.safetensors.index.json"

    def change(held: dict[str, Any]) -> str:
        kind = chance.choice(["no map", "list", "outside", "absent", "number", "one gone", "empty", "elsewhere"])
        places = held["weight_map"]
        name = chance.choice(sorted(places))
        if kind == "no map":
            del held["weight_map"]
        elif kind == "list":
            held["weight_map"] = [1]
        elif kind == "empty":
            held["weight_map"] = {}
        elif kind == "one gone":
            del places[name]
        else:
            others = {"outside": "../../etc/passwd", "absent": "none.safetensors", "number": 3, "elsewhere": CONFIG}
            places[name] = others[kind]
        return f"{kind} {name}"

    return _change_json(path, change)


def pickled(chance: random.Random, folder: Path) -> str:
    tensors = {name: torch.from_numpy(values) for name, values in load_file(folder / SAFETENSORS).items()}
    (folder / SAFETENSORS).unlink()
    shutil.rmtree(folder / "onnx", ignore_errors=True)
    kind = chance.choice(["whole", "several", "code", "list", "noise"])
    path = folder / "pytorch_model.bin"
    if kind == "whole":
        torch.save(tensors, path)
    elif kind == "several":
        names = sorted(tensors)
        parts = {f"pytorch_model-0000{i}-of-00002.bin": names[i - 1 :: 2] for i in (1, 2)}
        for name, part in parts.items():
            torch.save({key: tensors[key] for key in part}, folder / name)
        places = {key: name for name, part in parts.items() for key in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    elif kind == "code":
        torch.save(_Code(folder / "was run"), path)
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"PK\x03\x04" + chance.randbytes(900))
    return kind


class _Code:
    """What runs a command when its pickle is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


# ---- ONNX


def _change_onnx(folder: Path, change: Callable[[onnx.ModelProto], str]) -> str:
    model = onnx.load(folder / ONNX)
    what = change(model)
    onnx.save(model, folder / ONNX)
    return what


def _change_input(tensor: Any, kind: str) -> None:
    if kind in ("int32", "float"):
        tensor.elem_type = TensorProto.INT32 if kind == "int32" else TensorProto.FLOAT
    elif kind in ("length", "rows"):
        tensor.shape.dim[int(kind == "length")].dim_value = 16
    elif kind == "rank":
        del tensor.shape.dim[1:]


def onnx_interface(chance: random.Random, folder: Path) -> str:
    def change(model: onnx.ModelProto) -> str:
        graph = model.graph
        kind = chance.choice(
            ["int32", "float", "length", "rows", "rank", "renamed", "more", "no output", "output", "labels", "no input"]
        )
        for value in graph.input:
            _change_input(value.type.tensor_type, kind)
        if kind == "renamed":
            graph.input[0].name = "ids"
        elif kind == "more":
            graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3]))
        elif kind in ("no output", "no input"):
            del (graph.output if kind == "no output" else graph.input)[:]
        elif kind == "output":
            graph.output[0].name = "no such value"
        elif kind == "labels":
            graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
        return kind

    return _change_onnx(folder, change)


def onnx_graph(chance: random.Random, folder: Path) -> str:
    def change(model: onnx.ModelProto) -> str:
        graph = model.graph
        kind = chance.choice(
            [
                "Softmax",
                "Sigmoid",
                "node gone",
                "node unknown",
                "opset 99",
                "opset 1",
                "ir 99",
                "nan",
                "gone",
                "elsewhere",
            ]
        )
        if kind in ("Softmax", "Sigmoid"):
            graph.node[-1].output[0] = "scores"
            graph.node.append(helper.make_node(kind, ["scores"], ["logits"]))
        elif kind == "node gone":
            del graph.node[chance.randrange(len(graph.node))]
        elif kind == "node unknown":
            graph.node[chance.randrange(len(graph.node))].op_type = "NoSuchOperator"
        elif kind.startswith("opset"):
            model.opset_import[0].version = int(kind.split()[1])
        elif kind == "ir 99":
            model.ir_version = 99
        else:
            place = chance.randrange(len(graph.initializer))
            tensor = graph.initializer[place]
            if kind == "nan":
                values = np.array(numpy_helper.to_array(tensor))
                values = np.full_like(values, np.nan) if values.dtype == np.float32 else values
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            elif kind == "gone":
                del graph.initializer[place]
            else:
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value=chance.choice(["none.data", "../../x", "/etc/passwd"]))
        return kind

    return _change_onnx(folder, change)


def onnx_float16(_chance: random.Random, folder: Path) -> str:
    from rejection_server.graph.float16 import to_float16

    onnx.save(to_float16(onnx.load(folder / ONNX)), folder / ONNX)
    return "float16"


def adapter(chance: random.Random, folder: Path) -> str:
    kind = chance.choice(["beside", "no base", "base gone", "no weights", "noise", "number", "other kind"])
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if kind == "other kind" else "SEQ_CLS",
        "base_model_name_or_path": str(folder / "base"),
        "target_modules": ["query"],
        "r": 4,
    }
    if kind != "beside":
        shutil.copytree(folder, folder / "base")
        for name in (SAFETENSORS, "model.safetensors.index.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "onnx", ignore_errors=True)
    if kind == "base gone":
        shutil.rmtree(folder / "base")
    if kind in ("no base", "number"):
        settings["base_model_name_or_path"] = None if kind == "no base" else 5
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if kind not in ("no weights", "beside"):
        values = np.zeros((4, 32), np.float32)
        save_file({"base_model.model.x.weight": values}, folder / "adapter_model.safetensors")
    if kind == "noise":
        (folder / "adapter_model.safetensors").write_bytes(chance.randbytes(100))
    return kind


def untouched(_chance: random.Random, _folder: Path) -> str:
    return "nothing"


CHANGES: dict[str, tuple[Change, str]] = {
    change.__name__: (change, needs)
    for change, needs in (
        (adapter, SAFETENSORS),
        (config_more, ""),
        (config_value, ""),
        (config_without, ""),
        (index, "model.safetensors.index.json"),
        (linked, ""),
        (missing, ""),
        (not_a_file, ""),
        (onnx_float16, ONNX),
        (onnx_graph, ONNX),
        (onnx_interface, ONNX),
        (other_content, ""),
        (overwritten, ""),
        (pickled, SAFETENSORS),
        (settings_more, ""),
        (settings_value, ""),
        (swapped, ""),
        (tokenizer_part, ""),
        (tokenizer_vocabulary, ""),
        (truncated, ""),
        (unreadable, ""),
        (untouched, ""),
        (weights_form, SAFETENSORS),
        (weights_header, SAFETENSORS),
        (weights_numbers, SAFETENSORS),
    )
}
"""By name: the change, and a file that a folder needs for it."""
