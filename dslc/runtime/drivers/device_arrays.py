"""Arrays of other libraries that lie on a CUDA device (torch, cupy, jax, pycuda): where, which type and shape, and whose stream they are ready on.

Read through DLPack where the array has it, else through `__cuda_array_interface__`. Formats: dmlc/dlpack `dlpack.h` (DLManagedTensor), and the CUDA
array interface, version 3, of numba's documentation.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import dtypes
from ...core.dtypes import DType
from ...core.errors import DataError

CUDA = 2  # DLPack's kDLCUDA


@dataclass(frozen=True)
class DeviceArray:
    """`strides` are in elements; `ordinal` is None where the array does not say on which device it lies. `stream`: a handle to wait for, or None.
    `owner` keeps the memory alive."""

    address: int
    dtype: DType | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    ordinal: int | None
    stream: int | None
    owner: Any
    spelled: str  # the type as the array says it, for messages

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        dense = _dense_strides(self.shape)
        return 0 in self.shape or all(n == 1 or found == step for n, found, step in zip(self.shape, self.strides, dense))


def device_array(value: Any, name: str, stream: int) -> DeviceArray | None:
    """The array where it lies on a CUDA device, else None. `stream` is the reader's, for DLPack: the data is ready on it. DataError names `name`."""
    if isinstance(value, np.ndarray) or not (hasattr(value, "__dlpack_device__") or hasattr(type(value), "__cuda_array_interface__")):
        return None
    try:
        if hasattr(value, "__dlpack_device__"):
            kind, ordinal = value.__dlpack_device__()
            return _of_dlpack(value, int(ordinal), stream) if int(kind) == CUDA else None
        return _of_interface(value)
    except (TypeError, ValueError, BufferError, RuntimeError, AttributeError, KeyError) as error:
        raise DataError(f"input '{name}' cannot be read from a {type(value).__name__}: {error}") from None


def _of_interface(value: Any) -> DeviceArray:
    told = value.__cuda_array_interface__
    shape = tuple(int(n) for n in told["shape"])
    dtype = np.dtype(told["typestr"])
    strides = told.get("strides")
    dense = _dense_strides(shape)
    if strides is not None and any(s % dtype.itemsize for s in strides):
        raise ValueError(f"its strides {tuple(strides)} are no multiples of its element")
    steps = dense if strides is None else tuple(int(s) // dtype.itemsize for s in strides)
    try:
        known = dtypes.of_numpy(dtype)
    except KeyError:
        known = None
    return DeviceArray(int(told["data"][0] or 0), known, shape, steps, None, told.get("stream"), value, str(dtype))


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


# DLPack


class _Tensor(ctypes.Structure):  # DLTensor
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool", 10: "float8_e4m3fn", 12: "float8_e5m2"}  # DLDataTypeCode
_TYPES = {
    **{(t.kind, t.bits): t for t in dtypes.ALL if t.kind in ("int", "uint") and not t.extension},
    **{("float", n): t for n, t in ((16, dtypes.FLOAT16), (32, dtypes.FLOAT32), (64, dtypes.FLOAT64))},
    ("bfloat", 16): dtypes.BFLOAT16,
    ("bool", 8): dtypes.BOOL,
    ("float8_e4m3fn", 8): dtypes.FLOAT8_E4M3,
    ("float8_e5m2", 8): dtypes.FLOAT8_E5M2,
}
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _of_dlpack(value: Any, ordinal: int, stream: int) -> DeviceArray:
    """The capsule stays unconsumed: it frees its tensor itself when the DeviceArray goes."""
    capsule = value.__dlpack__(stream=stream or 1)  # 1 is CUDA's legacy default stream
    tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    shape = tuple(tensor.shape[k] for k in range(tensor.ndim))
    strides = tuple(tensor.strides[k] for k in range(tensor.ndim)) if tensor.strides else _dense_strides(shape)
    kind = _CODES.get(tensor.code, f"type {tensor.code}")
    known = _TYPES.get((kind, tensor.bits)) if tensor.lanes == 1 else None
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, known, shape, strides, ordinal, None, (value, capsule), f"{kind}{tensor.bits}")
