"""How `scripts/bench gpu --tei` calls a Text Embeddings Inference; a small server stands in, for the client's code."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import page
from bench.gpu.cli import main
from bench.gpu.results import Results
from bench.peers.callers import CallError, TeiCaller
from bench.random_model import LABELS


class Predict(BaseHTTPRequestHandler):
    """Answers as TEI's OpenAPI description (1.7) says, to a batch: a list of label and score for each text."""

    protocol_version = "HTTP/1.1"
    bodies: list[Any]
    scores: Mapping[str, float] = {"REJECTION": 0.75, "NORMAL": 0.25}
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append((self.path, body))
        answers = [[{"label": name, "score": score} for name, score in self.scores.items()] for _ in body["inputs"]]
        content = json.dumps(answers).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serving() -> Iterator[tuple[str, type[Predict]]]:
    handler = type("Handler", (Predict,), {"bodies": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def ask(url: str, texts: Sequence[str]) -> Any:
    async def asked() -> Any:
        async with TeiCaller(f"{url}/predict", LABELS)() as call:
            return await call(texts)

    return asyncio.run(asked())


def test_each_text_is_a_list_of_its_own(serving: tuple[str, type[Predict]]) -> None:
    url, handler = serving
    for texts in (["one"], ["a", "b", "c"]):
        np.testing.assert_array_equal(ask(url, texts), [[0.25, 0.75]] * len(texts))
    assert handler.bodies == [
        ("/predict", {"inputs": [["one"]], "truncate": True}),
        ("/predict", {"inputs": [["a"], ["b"], ["c"]], "truncate": True}),
    ]


def test_another_models_answers_are_no_figures(serving: tuple[str, type[Predict]]) -> None:
    url, handler = serving
    handler.scores = {"joy": 0.5, "anger": 0.5}
    with pytest.raises(CallError, match="expected a score for each of NORMAL, REJECTION"):
        ask(url, ["one"])
    handler.status = 424
    with pytest.raises(CallError, match="predict answered 424"):
        ask(url, ["one"])


def test_its_figures_are_on_the_page(tmp_path: Path) -> None:
    results = Results(tmp_path / "result.json", {"date": "today", "commit": "abc", "dry": False})
    figures = {"batch": 32, "callers": 16, "texts_per_s": 1234.5, "p50_ms": 1.5, "p99_ms": 2.5, "failed": 0}
    results.add("tei", "load", {**figures, "generator_busy": 0.9})
    assert "| 32 | 16 | 1234.5 | 1.5 | 2.5 | 0 | 0.9 |" in page.text(results)


def test_the_section_needs_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sections", "tei"])
    assert "the section tei needs --tei URL" in capsys.readouterr().err
