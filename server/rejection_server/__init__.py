"""Text classification on the Triton Inference Server: the embedded host and what it needs to serve a model."""

from pathlib import Path

from rejection_server import telemetry
from rejection_server._version import __version__

__all__ = ["MODEL_REPOSITORY", "__version__"]

MODEL_REPOSITORY = Path(__file__).with_name("model_repository").resolve()
"""The bundled model repository; in a checkout that is the folder at its top, to which a link leads."""

telemetry.turn_off()
