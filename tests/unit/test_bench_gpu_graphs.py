"""The graphs that a GPU is measured with answer like the classifier that they are made of."""

from pathlib import Path

import numpy as np
import onnx

from bench.gpu_graphs import NAMES, graphs, write_graphs
from support.bert_graph import HEADS, PADDING, WORDS, bert
from support.ragged_graphs import rows_of_ids, run, session


def test_each_answers_like_the_first_in_float32(tmp_path: Path) -> None:
    model, rows = bert(roberta=True), rows_of_ids([5, 90, 17, 1], WORDS)
    files = dict(write_graphs(graphs(model, HEADS, PADDING, twins=True), tmp_path))
    assert list(files) == list(NAMES)
    answers = {name: run(session(onnx.load(path)), rows) for name, path in files.items()}
    for name, logits in answers.items():
        np.testing.assert_allclose(logits, answers["padded-fp32"], atol=1e-5 if "fp32" in name else 1e-2, err_msg=name)
