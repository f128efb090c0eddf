"""Tensor maps for the copy engine of Hopper and newer, encoded by the CUDA driver: `cuTensorMapEncodeTiled` of the CUDA driver API."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from ...core.errors import TargetError
from ...core.executable import TensorMap
from .device import TENSOR_MAP_ALIGNMENT, TENSOR_MAP_BYTES

# CUtensorMapDataType
_TYPES = {
    **{"bool": 0, "uint8": 0, "int8": 0, "float8_e4m3": 0, "float8_e5m2": 0, "int16": 1, "int32": 3, "int64": 5},
    **{"float16": 6, "float32": 7, "float64": 8, "bfloat16": 9, "tf32": 11},
}
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle
_NO_INTERLEAVE, _L2_PROMOTION_128, _ZEROS_OUTSIDE = 0, 2, 0


@lru_cache(maxsize=1)
def _encode() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    except (OSError, AttributeError):
        raise TargetError("the CUDA driver cannot encode tensor maps", help="install a driver for CUDA 12 or newer") from None


def encoded(described: TensorMap, address: int) -> bytes:
    """The 128 bytes of a tensor map for a tensor at `address`; a CUDA context must be current. TargetError where the driver refuses it."""
    rank = len(described.dims)
    steps = described.steps or (1,) * rank
    raw = ctypes.create_string_buffer(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
    skip = -ctypes.addressof(raw) % TENSOR_MAP_ALIGNMENT
    status = _encode()(
        ctypes.c_void_p(ctypes.addressof(raw) + skip),
        ctypes.c_int(_TYPES[described.dtype]),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*described.dims),
        (ctypes.c_uint64 * max(rank - 1, 1))(*described.strides),
        (ctypes.c_uint32 * rank)(*(n * step for n, step in zip(described.box, steps))),  # what it spans: the driver divides by the steps
        (ctypes.c_uint32 * rank)(*steps),
        ctypes.c_int(_NO_INTERLEAVE),
        ctypes.c_int(_SWIZZLES[described.swizzle]),
        ctypes.c_int(_L2_PROMOTION_128),
        ctypes.c_int(_ZEROS_OUTSIDE),
    )
    if status:
        raise TargetError(f"the CUDA driver refuses a tensor map (error {status})", notes=[str(described)])
    return raw.raw[skip : skip + TENSOR_MAP_BYTES]
