"""Tensor types and source locations, between Python values and MLIR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.core.errors import Span

from .mlir import ir


@dataclass(frozen=True)
class TensorType:
    """A dtype and a static shape."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def to_mlir(self) -> ir.Type:
        return ir.RankedTensorType.get(self.shape, ir.Type.parse(self.dtype.mlir))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@lru_cache(maxsize=4096)
def _tensor_type(element: str, shape: tuple[int, ...]) -> TensorType:
    return TensorType(dtypes.BY_MLIR[element], shape)


# of the classes of element types that have one text: asking MLIR for it takes ten times as long
_TEXTS = {ir.F32Type: "f32", ir.F64Type: "f64", ir.F16Type: "f16", ir.BF16Type: "bf16"}


def type_of(value: ir.Value) -> TensorType:
    """The tensor type of an SSA value."""
    return from_mlir(value.type)


def from_mlir(t: ir.Type) -> TensorType:
    tensor = t if type(t) is ir.RankedTensorType else ir.RankedTensorType(t)
    element = tensor.element_type
    return _tensor_type(_TEXTS.get(type(element)) or str(element), tuple(tensor.shape))


def location_of(span: Span | None) -> ir.Location:
    """The MLIR location of a span; needs a context."""
    if span is None:
        return ir.Location.unknown()
    return ir.Location.file(span.file, span.line, span.column, span.end_line, span.end_column)


def spans_of(location: ir.Location) -> list[Span]:
    """The places a location names, the innermost first; fused locations give several, call sites give callee then caller."""
    out: list[Span] = []
    _collect(location, out)
    return list(dict.fromkeys(out))


def _collect(location: ir.Location, out: list[Span]) -> None:
    location = location.maybe_downcast() if hasattr(location, "maybe_downcast") else location
    if isinstance(location, ir.FileLineColLoc):
        out.append(Span(location.filename if isinstance(location.filename, str) else location.filename.value, location.start_line,
                        location.start_col, location.end_line, location.end_col))  # fmt: skip
    elif isinstance(location, ir.FusedLoc):
        for part in location.locations:
            _collect(part, out)
    elif isinstance(location, ir.CallSiteLoc):
        _collect(location.callee, out)
        _collect(location.caller, out)
    elif isinstance(location, ir.NameLoc):
        _collect(location.child_loc, out)


def fuse_locations(locations: Sequence[ir.Location]) -> ir.Location:
    """One location that keeps every place of several."""
    unique = list(dict.fromkeys(locations))
    return unique[0] if len(unique) == 1 else ir.Location.fused(unique)
