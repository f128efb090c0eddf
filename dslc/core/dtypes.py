"""The element types of tensors, one row each.

`DType` knows the name in the model language, the spelling in MLIR, the size in memory and the numpy type that holds its values exactly.
bfloat16, float8 and int4 come from `ml_dtypes`, imported on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class DType:
    name: str  # in the model language
    mlir: str  # in MLIR; signed and unsigned integers share a spelling except uint8
    kind: str  # "float", "int", "uint" or "bool"
    bits: int  # of the value; a bool is stored in one byte
    extension: bool = False  # lives in ml_dtypes rather than numpy

    @cached_property
    def numpy(self) -> np.dtype:
        """The numpy dtype of arrays of this type."""
        if self.extension:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, self._extension_name))
        return np.dtype(self.name)

    @property
    def _extension_name(self) -> str:
        return {"float8_e4m3": "float8_e4m3fn"}.get(self.name, self.name)

    @property
    def bytes(self) -> int:
        """Bytes an element takes in memory."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_bool(self) -> bool:
        return self.kind == "bool"

    def __str__(self) -> str:
        return self.name


FLOAT64 = DType("float64", "f64", "float", 64)
FLOAT32 = DType("float32", "f32", "float", 32)
FLOAT16 = DType("float16", "f16", "float", 16)
BFLOAT16 = DType("bfloat16", "bf16", "float", 16, extension=True)
FLOAT8_E4M3 = DType("float8_e4m3", "f8E4M3FN", "float", 8, extension=True)
FLOAT8_E5M2 = DType("float8_e5m2", "f8E5M2", "float", 8, extension=True)
INT64 = DType("int64", "i64", "int", 64)
INT32 = DType("int32", "i32", "int", 32)
INT16 = DType("int16", "i16", "int", 16)
INT8 = DType("int8", "i8", "int", 8)
UINT8 = DType("uint8", "ui8", "uint", 8)
INT4 = DType("int4", "i4", "int", 4, extension=True)
BOOL = DType("bool", "i1", "bool", 1)

ALL = (
    FLOAT64, FLOAT32, FLOAT16, BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2,
    INT64, INT32, INT16, INT8, UINT8, INT4, BOOL,
)  # fmt: skip
TF32 = "tf32"  # no type of values: float32 whose products round their factors to 10 bits
PRECISIONS = ("float32", TF32, "bfloat16", "float16", "int8")  # that programs run in; int8: weights, of programs that do not train
BY_NAME = {t.name: t for t in ALL}
BY_MLIR = {t.mlir: t for t in ALL}


def of_numpy(dtype: np.dtype | type) -> DType:
    """The DType of a numpy dtype; raises KeyError where there is none (strings, complex)."""
    name = np.dtype(dtype).name
    return BY_NAME["float8_e4m3" if name == "float8_e4m3fn" else name]


def rounded_to_tf32(x: np.ndarray) -> np.ndarray:
    """The nearest values with 10 bits behind the leading one, ties away from zero, in x's own type: `cvt.rna.tf32.f32` of x as float32."""
    narrow = x.astype(np.float32)
    bits = narrow.view(np.uint32)
    return np.where(np.isnan(narrow), narrow, (bits + np.uint32(1 << 12) & np.uint32(0xFFFFE000)).view(np.float32)).astype(x.dtype)


def promote(a: DType, b: DType) -> DType:
    """The type of `a + b`: float wins over int, int over bool, then the wider one; float16 with bfloat16 gives float32."""
    if a == b:
        return a
    rank = {"bool": 0, "uint": 1, "int": 1, "float": 2}
    if rank[a.kind] != rank[b.kind]:
        return a if rank[a.kind] > rank[b.kind] else b
    if a.bits == b.bits:
        if a.is_float:
            return FLOAT32
        return INT16 if {a, b} == {INT8, UINT8} else a
    return a if a.bits > b.bits else b
