"""Quantise an ONNX classifier for OpenVINO: static int8 by NNCF, activation scales from rows of token ids.

python convert.py model.onnx model.xml rows.json
"""

import json
import sys
from pathlib import Path

import nncf
import openvino
from rows import inputs

onnx, xml, rows_json = map(Path, sys.argv[1:])
model = openvino.convert_model(onnx)
names = [entry.get_any_name() for entry in model.inputs]
rows = json.loads(rows_json.read_text())
quantised = nncf.quantize(
    model,
    nncf.Dataset(rows, lambda ids: inputs(ids, names)),
    model_type=nncf.ModelType.TRANSFORMER,
    preset=nncf.QuantizationPreset.MIXED,
    # A quantised embedding table saves no time, and OpenVINO fails to compile some.
    ignored_scope=nncf.IgnoredScope(types=["Gather"], validate=False),
    subset_size=len(rows),
)
unfinished = xml.with_name(f"unfinished-{xml.name}")
openvino.save_model(quantised, unfinished, compress_to_fp16=False)
unfinished.with_suffix(".bin").replace(xml.with_suffix(".bin"))
unfinished.replace(xml)
