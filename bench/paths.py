"""Where things are: the repository, and the folder that all the benchmark makes goes into."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
REPOSITORY = ROOT / "model_repository"
"""The bundled model as checked out."""
