"""Make the wheel's Python backend work with numpy 2; imported by the stub's interpreter as it starts, nowhere else.

The stub was built with pybind11 2.10, which reads an item's size where numpy 1 kept it. With numpy 2 it reads 0 there:
every input arrives as copies of its first item and every output leaves empty (mended upstream one release later, with
pybind11 2.12). Python 3.13 has no numpy 1, so here both directions are led
around the wrong size:

- in: pybind11 makes arrays through numpy's table of C functions and hands `PyArray_NewFromDescr` strides computed with
  the wrong size. It gets a copy of the table whose entry leaves the strides out: numpy then lays the items out in C
  order, which is how Triton's are.
- out: `Tensor(name, array)` goes through DLPack, where numpy itself says how large the array is. DLPack knows no text:
  a model with text outputs is told that it needs numpy 1.

With numpy 1 nothing is changed.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np

__all__ = ["repair"]

TABLE = "_ARRAY_API"
"""Where extension modules find the table."""
NEW_FROM_DESCR = 94
"""Index of PyArray_NewFromDescr in numpy's table of C functions, the same in every version."""
STRIDES = 4
"""Which of its arguments the strides are."""
TABLE_LENGTH = 300
"""Entries to copy; pybind11 uses none beyond 282."""

_NewFromDescr = ctypes.PYFUNCTYPE(
    ctypes.c_void_p,  # a new reference to the array
    ctypes.c_void_p,  # its type
    ctypes.c_void_p,  # description of its items
    ctypes.c_int,  # number of dimensions
    ctypes.c_void_p,  # dimensions
    ctypes.c_void_p,  # strides
    ctypes.c_void_p,  # memory
    ctypes.c_int,  # flags
    ctypes.c_void_p,  # handed to __array_finalize__
)

_kept_alive: list[Any] = []


def repair() -> None:
    """Repair both directions; call before the stub makes its first array."""
    if int(np.__version__.partition(".")[0]) < 2:
        return
    _repair_inputs()
    _repair_outputs()


def _repair_inputs() -> None:
    # Only pybind11 before 2.12 looks here: newer extension modules take the table from numpy._core.
    multiarray: Any = importlib.import_module("numpy.core.multiarray")

    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

    table_type = ctypes.c_void_p * TABLE_LENGTH
    table = table_type.from_buffer_copy(table_type.from_address(get_pointer(getattr(multiarray, TABLE), None)))
    original = _NewFromDescr(table[NEW_FROM_DESCR] or 0)

    def without_strides(*arguments: int | None) -> int:
        array: int = original(*arguments[:STRIDES], None, *arguments[STRIDES + 1 :])
        return array

    replacement = _NewFromDescr(without_strides)
    table[NEW_FROM_DESCR] = ctypes.cast(replacement, ctypes.c_void_p).value
    _kept_alive.extend((table, replacement))
    setattr(multiarray, TABLE, new_capsule(ctypes.addressof(table), None, None))


def _repair_outputs() -> None:
    backend: Any = importlib.import_module("c_python_backend_utils")  # built into the stub
    original = backend.Tensor
    set_name = ctypes.pythonapi.PyCapsule_SetName
    set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]

    class Tensor:
        """Stands in for the constructor; what it makes are the backend's own tensors."""

        from_dlpack = staticmethod(original.from_dlpack)

        def __new__(cls, name: str, array: Any) -> Any:
            """A tensor of the given name that holds the items of a numpy array."""
            if not isinstance(array, np.ndarray):
                return original(name, array)
            if array.dtype.kind in "OSU":
                raise TypeError(f"output '{name}' holds text, which needs numpy 1, and so Python 3.11 or 3.12")
            exportable = np.ascontiguousarray(array).reshape(array.shape)
            if not exportable.flags.writeable:
                exportable = exportable.copy()  # DLPack knows no read-only memory
            capsule = exportable.__dlpack__()
            tensor = original.from_dlpack(name, capsule)
            # The backend has taken the memory over but marks that with a name of its own, which numpy would report.
            set_name(capsule, b"used_dltensor")
            return tensor

    backend.Tensor = Tensor
