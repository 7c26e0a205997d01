"""mosec: a Rust front, and a process of one onnxruntime or OpenVINO thread for each core.

No dynamic batching: a request goes to the first worker that is free, which keeps all of them busy and lets no row wait
for another.
"""

from typing import Any

from mosec import Server, Worker
from rows import RowScorer, settings


class Classifier(Worker):  # type: ignore[misc]  # mosec is in the peer's own environment
    """One model in one process."""

    def __init__(self) -> None:
        """Load it."""
        super().__init__()
        self._scorer = RowScorer()

    def forward(self, data: Any) -> Any:
        """Answer one request."""
        return {"probabilities": self._scorer.score(data["texts"]).tolist()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=settings()["workers"])
    server.run()
