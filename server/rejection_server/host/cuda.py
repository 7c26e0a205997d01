"""The GPUs of this machine, asked of NVIDIA's driver itself: no package is needed for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from rejection_server.host.errors import UnsupportedMachineError
from rejection_server.prepared_for import DRIVER, NO_DRIVER

__all__ = ["Gpu", "find_gpus", "use"]

_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


@dataclass(frozen=True)
class Gpu:
    """One that this process may use (CUDA_VISIBLE_DEVICES counts)."""

    index: int
    """From 0, as CUDA and Triton count them."""
    name: str
    """Such as NVIDIA L4."""
    capability: tuple[int, int]
    """Compute capability, such as (8, 9)."""


def find_gpus(driver: str = DRIVER) -> tuple[Gpu, ...]:
    """All of them, at least one; raises UnsupportedMachineError where there is no driver or no GPU."""
    cuda = _load(driver)
    count = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)))
    if count.value < 1:
        raise UnsupportedMachineError(
            "this machine has no GPU that this process may use: see nvidia-smi, and what CUDA_VISIBLE_DEVICES says"
        )
    return tuple(_gpu(cuda, index) for index in range(count.value))


def use(index: int, driver: str = DRIVER) -> None:
    """Make a GPU the one that this thread's CUDA calls are for, for the life of the process."""
    cuda = _load(driver)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), index))
    _check(cuda, cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _check(cuda, cuda.cuCtxSetCurrent(context))


def _load(driver: str) -> ctypes.CDLL:
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as exc:
        raise UnsupportedMachineError(NO_DRIVER) from exc
    _check(cuda, cuda.cuInit(0))
    return cuda


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), index))
    _check(cuda, cuda.cuDeviceGetName(name, _NAME_BYTES, device))
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device))
        numbers.append(number.value)
    return Gpu(index, name.value.decode(errors="replace"), (numbers[0], numbers[1]))


def _check(cuda: ctypes.CDLL, status: int) -> None:
    """Raise UnsupportedMachineError for a status of the driver's that is no success."""
    if status == 0:
        return
    word = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(word))
    said = (word.value or b"unknown error").decode(errors="replace")
    raise UnsupportedMachineError(f"NVIDIA's driver cannot use the GPU ({said}): look at it with nvidia-smi")
