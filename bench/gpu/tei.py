"""A Text Embeddings Inference beside the server: the same texts, for the same checkpoint behind another URL."""

from bench.compose import mixed_texts
from bench.gpu.plan import GpuSettings
from bench.gpu.results import Add
from bench.gpu.served import TEXTS, WARM_S, by_python
from bench.load import Load
from bench.peers.callers import TeiCaller
from bench.random_model import LABELS


def measure(settings: GpuSettings, add: Add) -> None:
    """The loads that Triton is measured with, by the load generator in Python, which HTTP keeps busy."""
    texts = mixed_texts(48 if settings.dry else TEXTS)
    caller = TeiCaller(f"{settings.tei.rstrip('/')}/predict", LABELS)
    for batch, callers in settings.tei_loads:
        said = by_python(caller, Load(texts, settings.load_s, WARM_S, batch, callers, 0.0))
        generator_busy = round(said.pop("generator_cpu_s") / (said["seconds"] or 1), 2)
        add("load", batch=batch, callers=callers, **said, generator_busy=generator_busy)
