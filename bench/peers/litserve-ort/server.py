"""LitServe: a FastAPI front, and a process of one onnxruntime thread for each core, joined by ZeroMQ."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import litserve
from rows import RowScorer, Settings, load_onnx


class Classifier(litserve.LitAPI):
    """One model in one process."""

    def setup(self, device: str) -> None:
        """Load it."""
        self._scorer = RowScorer(Settings.of_environment(), load_onnx)

    def decode_request(self, request: dict) -> list[str]:
        """The texts of a request."""
        return request["texts"]

    def predict(self, texts: list[str]) -> list[list[float]]:
        """Probabilities of each text."""
        return self._scorer.score(texts).tolist()

    def encode_response(self, output: list[list[float]]) -> dict:
        """What is answered."""
        return {"probabilities": output}


if __name__ == "__main__":
    settings = Settings.of_environment()
    server = litserve.LitServer(
        Classifier(), accelerator="cpu", devices=1, workers_per_device=settings.workers, timeout=False, fast_queue=True
    )
    server.run(host="127.0.0.1", port=settings.port, generate_client_file=False, log_level="warning")
