"""LitServe: a FastAPI front, and a process of one onnxruntime thread for each core, joined by ZeroMQ."""

from typing import Any

import litserve
from rows import RowScorer, settings


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # litserve is in the peer's own environment
    """One model in one process."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's own signature
        """Load it."""
        self._scorer = RowScorer()

    def decode_request(self, request: dict[str, Any]) -> Any:
        """The texts of a request; LitServe makes its endpoint of the types of this and of `encode_response`."""
        return request["texts"]

    def predict(self, texts: list[str]) -> Any:
        """Probabilities of each text."""
        return self._scorer.score(texts).tolist()

    def encode_response(self, output: Any) -> dict[str, Any]:
        """What is answered."""
        return {"probabilities": output}


if __name__ == "__main__":
    given = settings()
    server = litserve.LitServer(
        Classifier(), accelerator="cpu", devices=1, workers_per_device=given["workers"], timeout=False, fast_queue=True
    )
    server.run(host="127.0.0.1", port=given["port"], generate_client_file=False, log_level="warning")
