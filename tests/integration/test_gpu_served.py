"""The recorded answers, asked of a Triton that has an onnxruntime of its own; here on the processor, for the wiring."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from rejection_server import MODEL_REPOSITORY
from rejection_server.host import Server
from rejection_server.host.errors import HostError
from rejection_server.host.gpu import check_served
from rejection_server.prepare import gate
from rejection_server.prepare.recorded import Recorded
from support.kserve import Wire
from support.repository import bundled_tokenizer

TEXTS = ["Sorry, but I can't assist with that.", "Boil the water first.", "No.", "word " * 300] * 20
"""More than are asked at a time."""


def test_a_serving_triton_is_asked_the_recorded_texts(server: Server, tmp_path: Path) -> None:
    logits = np.concatenate([Wire(server.grpc_address).infer([text])["logits"] for text in TEXTS[:4]] * 20)
    rows = bundled_tokenizer().token_ids(TEXTS)
    version = tmp_path / "classifier" / "1"
    version.mkdir(parents=True)
    facts = json.loads((MODEL_REPOSITORY / "classifier" / "1" / "model.json").read_text())
    facts["gate"] = {"thresholds": asdict(gate.THRESHOLDS["fp32"])}
    (version / "model.json").write_text(json.dumps(facts))
    Recorded(rows, logits).write(version)
    check_served(tmp_path, server.triton_address)
    Recorded(rows, logits[:, ::-1]).write(version)
    with pytest.raises(HostError, match=r"does not answer like the original \(.*: prepare it again with"):
        check_served(tmp_path, server.triton_address)
    with pytest.raises(HostError, match="did not answer on this GPU"):
        check_served(tmp_path, "127.0.0.1:1")
