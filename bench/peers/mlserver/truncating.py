"""MLServer's Hugging Face runtime whose pipeline truncates and answers every label.

The runtime takes pipeline options from each request only, as inputs, and adaptive batching joins these as if they were
texts: so the options become the pipeline's defaults here.

The runtime and its Optimum import names that the versions of torch and transformers they ask for no longer have. None
of the names plays a part in classifying, so the imports are mended here: torch's exporter of old has moved, and the
class of chats is gone. TensorFlow, of which the runtime uses nothing but the setting of threads for TensorFlow models,
is left out of the environment (see overrides.txt): each process would import it.
"""

import sys
from types import ModuleType

import transformers.pipelines
from torch.onnx._internal.torchscript_exporter import symbolic_opset14

sys.modules["torch.onnx.symbolic_opset14"] = symbolic_opset14
transformers.pipelines.Conversation = type("Conversation", (), {})

import optimum.pipelines  # noqa: E402, F401 - looks for TensorFlow itself, so before the stand-in

sys.modules["tensorflow"] = ModuleType("tensorflow")

from mlserver_huggingface import HuggingFaceRuntime  # noqa: E402 - after the mending

del sys.modules["tensorflow"]  # whatever looks for TensorFlow later must not find this


class Runtime(HuggingFaceRuntime):  # type: ignore[misc]  # in the peer's own environment
    """The runtime with its pipeline's defaults set."""

    async def load(self) -> bool:
        """Load, then set the defaults."""
        await super().load()
        preprocess, _, postprocess = self._model._sanitize_parameters(truncation=True, top_k=None)  # noqa: SLF001 - no public way
        self._model._preprocess_params.update(preprocess)  # noqa: SLF001
        self._model._postprocess_params.update(postprocess)  # noqa: SLF001
        return True
