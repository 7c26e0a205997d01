"""Quantise an ONNX classifier for OpenVINO: static int8 by NNCF, activation scales from calibration texts.

python convert.py model.onnx model.xml --tokenizer tokenizer.json --texts texts.jsonl --max-length 512
"""

import argparse
import json
from pathlib import Path

import nncf
import numpy as np
import openvino
from tokenizers import Tokenizer

TEXTS = 128
LONG_EVERY = 8
"""Every so often a text is joined with the following ones, up to the longest that the model takes."""


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("xml", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    arguments = parser.parse_args()
    model = openvino.convert_model(arguments.onnx)
    names = [entry.get_any_name() for entry in model.inputs]
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(arguments.max_length)
    rows = [tokenizer.encode(text).ids for text in calibration_texts(arguments.texts)]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(rows, lambda ids: inputs(ids, names)),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        # A quantised embedding table saves no time, and OpenVINO fails to compile some.
        ignored_scope=nncf.IgnoredScope(types=["Gather"], validate=False),
        subset_size=len(rows),
    )
    unfinished = arguments.xml.with_name(f"unfinished-{arguments.xml.name}")
    openvino.save_model(quantised, unfinished, compress_to_fp16=False)
    unfinished.with_suffix(".bin").replace(arguments.xml.with_suffix(".bin"))
    unfinished.replace(arguments.xml)


def calibration_texts(path: Path) -> list[str]:
    """Texts of a file of JSON lines, some joined into long ones."""
    texts = [text for line in path.read_text().splitlines() if (text := json.loads(line)["text"])]
    joined = ["\n".join(texts[number : number + LONG_EVERY]) for number in range(0, len(texts), LONG_EVERY)]
    return (joined + texts)[:TEXTS]


def inputs(ids: list[int], names: list[str]) -> dict[str, np.ndarray]:
    """Model inputs for one row of token ids."""
    row = np.array([ids], np.int64)
    known = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    return {name: known[name] for name in names}


if __name__ == "__main__":
    main()
