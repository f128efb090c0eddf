"""What an expression can be while a program is elaborated: compile-time values, whole tensors, values at a point of an equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.core.errors import Error, ShapeError, Span, TypeError_
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import TensorType, type_of

from . import syntax
from .unparse import unparse


@dataclass(frozen=True)
class Tensor:
    """A tensor of the surrounding scope, known at run time."""

    value: ir.Value

    @property
    def type(self) -> TensorType:
        return type_of(self.value)


@dataclass(frozen=True)
class Point:
    """A value at every point of some of an equation's indices: axis k of `value` runs over index `axes[k]`.

    `read`: where the value came from, if it is one affine read of a tensor, so that sums of products can become convolutions.
    """

    value: ir.Value
    axes: tuple[Any, ...]
    read: Any = None

    @property
    def type(self) -> TensorType:
        return type_of(self.value)


@dataclass(frozen=True)
class Turn:
    """The index of a scan inside its body: a rank-0 integer at run time, and an index in reads."""

    scan: Any


@dataclass(frozen=True)
class LayerValue:
    """A layer or a model, as a value: it can be called, used, and passed as an option."""

    definition: syntax.Layer | syntax.Model

    @property
    def name(self) -> str:
        return self.definition.name


@dataclass(frozen=True)
class Function:
    """A built-in function."""

    name: str


@dataclass(eq=False)
class Instance:
    """A layer with parameters of its own, which its first call makes and later calls share."""

    layer: LayerValue
    path: str
    options: dict[str, Any]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)  # how often a name was given to an instance below
    absent: dict[str, tuple[str, Span]] = field(default_factory=dict)  # parameters whose condition was false: (condition, its place)


@dataclass(frozen=True)
class Results:
    """Several results of a layer, by position and by name; those of a model may be kept under one name: `y = net(x)`, then `y.logits`."""

    names: tuple[str | None, ...]
    values: tuple[Any, ...]
    of: str
    of_model: bool = False

    def get(self, name: str) -> Any:
        return self.values[self.names.index(name)] if name in self.names else None


@dataclass(frozen=True)
class Tree:
    """All parameters of an instance, by their paths below it."""

    leaves: Mapping[str, Tensor]
    of: str


def axis_text(axis: syntax.Axis) -> str:
    """An axis of a declaration, for messages."""
    match axis:
        case syntax.Index(name=name):
            return name
        case syntax.Size(value=value):
            return unparse(value)
    return "..."


def is_static(value: Any) -> bool:
    """Known at compile time."""
    return not isinstance(value, (Tensor, Point, Results, Turn, Tree))


def described(value: Any) -> str:
    """A value for an error message."""
    match value:
        case Tensor() | Point():
            return str(value.type)
        case bool():
            return str(value).lower()
        case LayerValue():
            return f"layer {value.name}"
        case Function():
            return f"function {value.name}"
        case Instance():
            return f"an instance of {value.layer.name}"
        case Tree():
            return f"the tree of {value.of}"
        case Results():
            return f"{len(value.values)} results of {value.of}"
        case list():
            return "[" + ", ".join(described(v) for v in value) + "]"
        case str():
            return f'"{value}"'
    return str(value)


# --- numbers and tensors under one operator ------------------------------------------------------------------------------------------


def dtype_of_number(value: float | int | bool) -> DType:
    """int32 where that holds an integer, else int64."""
    if isinstance(value, bool):
        return dtypes.BOOL
    if isinstance(value, int):
        return dtypes.INT32 if _holds(dtypes.INT32, value) else dtypes.INT64
    return dtypes.FLOAT32


def _holds(dtype: DType, value: float | int) -> bool:
    low = 0 if dtype.kind == "uint" else -(1 << dtype.bits - 1)
    return not dtype.is_integer or low <= value < low + (1 << dtype.bits)


def number(value: float | int | bool, dtype: DType | None = None, shape: Sequence[int] = ()) -> ir.Value:
    """A compile-time number as a tensor of one value. TypeError_ where it is none, or an integer type does not hold it."""
    if not isinstance(value, (int, float)):
        raise TypeError_(f"a number or tensor is needed, this is {described(value)}")
    dtype = dtype or dtype_of_number(value)
    if not _holds(dtype, value):
        raise TypeError_(f"{value} does not fit {dtype}", help="a number takes the type of the tensors beside it: cast these, int64(x)")
    return ops.full(TensorType(dtype, tuple(shape)), value)


def as_point(value: Any) -> Point:
    """A value of an equation, a number too, as one at every point of its indices."""
    return value if isinstance(value, Point) else Point(number(value), ())


def common_dtype(tensors: list[TensorType], numbers: list[Any]) -> DType:
    """The type of an operation: tensors decide among themselves, a number only adds its kind."""
    kept: DType | None = None
    for t in tensors:
        kept = t.dtype if kept is None else dtypes.promote(kept, t.dtype)
    for n in numbers:
        own = dtype_of_number(n)
        if kept is None or (own.is_float and not kept.is_float) or (own.is_integer and kept.is_bool):
            kept = own
    assert kept is not None
    return kept


def materialize(value: Any, like: TensorType, dtype: DType) -> ir.Value:
    """A tensor of `dtype` and the shape of `like`, from a tensor of that shape or a number."""
    if isinstance(value, ir.Value):
        return ops.cast(value, dtype)
    return number(value, dtype, like.shape)


def broadcast_whole(values: list[Any], name: str) -> tuple[list[Any], TensorType]:
    """Tensors and numbers of a bare expression brought to one shape as numpy does."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    rank = max(t.type.rank for t in tensors)
    shape = [1] * rank
    for t in tensors:
        for k, n in enumerate(t.type.shape, rank - t.type.rank):
            if n != 1 and shape[k] not in (1, n):
                raise ShapeError(f"{name} of {' and '.join(str(x.type) for x in tensors)}")
            shape[k] = n if n != 1 else shape[k]
    out: list[Any] = []
    for v in values:
        out.append(spread_whole(v.value, shape) if isinstance(v, Tensor) else v)
    return out, tensors[0].type.with_shape(shape)


def spread_whole(value: ir.Value, shape: list[int]) -> ir.Value:
    """numpy's broadcast: axes of size 1 repeat, missing leading axes are added."""
    t = type_of(value)
    offset = len(shape) - t.rank
    rows = [
        [int(k == a + offset and t.shape[a] != 1) if t.shape[a] != shape[a + offset] else int(k == a + offset) for k in range(len(shape))]
        for a in range(t.rank)
    ]
    return ops.view(value, rows, [0] * t.rank, shape)


def located(error: Error, span: Span) -> Error:
    """The error with a place, where it has none yet."""
    if not error.spans:
        error.spans = [span]
    return error


def as_size(value: Any, span: Span, text: str = "", names: str = "") -> int:
    """A size: a non-negative integer, or a float that is one exactly."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError_(f"a size must be an integer, this is {described(value)}", span)
    if isinstance(value, float):
        if not value.is_integer():
            how = f" ({text}{' with ' + names if names else ''})" if text else ""
            raise TypeError_(f"a size must be an integer, this is {value:g}{how}", span,
                             help="use // to round down" + (f", or make {names.split(' =')[0]} even" if names and "/ 2" in text else ""))  # fmt: skip
        value = int(value)
    if value < 0:
        raise ShapeError(f"a size must not be negative, this is {value}", span)
    if value > 2**40:
        raise ShapeError(f"a size of {value} is absurd", span)
    return value


def stored(value: Tensor, dtype: DType, what: str, span: Span) -> ir.Value:
    """What is kept of a value in a state or carry of a type. TypeError_ where that would cut off fractions."""
    if value.type.dtype.is_float and not dtype.is_float:
        raise TypeError_(f"{what} is {dtype}, its new value {value.type.dtype}", span, help=f"declare it as float32, or cast the value: {dtype}(...)")
    return ops.cast(value.value, dtype)
