"""What an embedded Triton would run from, for its command line alone: nothing of it exists."""

from pathlib import Path

from rejection_server.host.options import Runtime

RUNTIME = Runtime(
    repository=Path("/r"),
    tritonserver=Path("/t"),
    backends=Path("/b"),
    caches=Path("/c"),
    shm_prefix="p-",
    admin_key="k",
    has_gpu=False,
)
