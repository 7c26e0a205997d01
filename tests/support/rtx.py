"""TensorRT's own parser and builder on a machine without a GPU: NVIDIA's TensorRT for RTX, which builds ahead of time.

A test module that imports this one is skipped where it is not installed.
"""

import pytest

PACKAGE = "tensorrt_rtx_bindings"
WHY = "parsing with TensorRT needs its package for machines without a GPU: scripts/install rtx"
trt = pytest.importorskip(PACKAGE, reason=WHY)
