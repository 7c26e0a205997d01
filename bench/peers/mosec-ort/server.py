"""mosec: a Rust front, and a process of one onnxruntime thread for each core.

No dynamic batching: a request goes to the first worker that is free, which keeps all of them busy and lets no row wait
for another.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mosec import Server, Worker
from rows import RowScorer, Settings, load_onnx


class Classifier(Worker):
    """One model in one process."""

    def __init__(self) -> None:
        """Load it."""
        super().__init__()
        self._scorer = RowScorer(Settings.of_environment(), load_onnx)

    def forward(self, data: dict) -> dict:
        """Answer one request."""
        return {"probabilities": self._scorer.score(data["texts"]).tolist()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=Settings.of_environment().workers)
    server.run()
