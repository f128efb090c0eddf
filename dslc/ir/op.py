"""The base of every op of the nn dialect: one class holds everything that is known about an op.

An op class declares its operands, results and attributes as annotations and answers:

- `infer`      the types of its results, or a ShapeError / TypeError_ that says what does not fit;
- `reference`  what it computes, on numpy arrays: the meaning of the op;
- `gradient`   the gradients of its operands, made of table ops only, so that it applies to its own output;
- `maps`       which operand elements a result element reads;
- `scalar`     for ops that compute at a point: the value there, in the scalar primitives that both backends print.

`OpClass.of(*operands, **attributes)` builds one at the current insertion point and gives its result (a list where there are several).
"""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import ShapeError, TypeError_

from . import index
from .mlir import ir, register_operation
from .types import TensorType, from_mlir, type_of

# Attribute of an op that stands in a `with precision(...)`: the name of the type. Also of casts that the precision pass made of it: passes may
# move them, and leave them out where nothing is stored.
PRECISION = "nn.precision"

# What an annotation of an op class declares; attributes are declared with the types below.
Operand = Annotated[Any, "operand"]
Operands = Annotated[list[Any], "operands"]
Result = Annotated[Any, "result"]
Results = Annotated[list[Any], "results"]
Region = Annotated[Any, "region"]


@dataclass(frozen=True)
class Codec:
    """How an attribute's Python value is kept as an MLIR attribute. `optional`: it is False where the attribute is not there."""

    encode: Any
    decode: Any
    optional: bool = False


def _i64(v: int) -> ir.Attribute:
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), int(v))


def encode_array(array: np.ndarray) -> ir.Attribute:
    """A constant tensor as an attribute; a uniform one is stored once."""
    array = np.asarray(array)
    dtype = dtypes.of_numpy(array.dtype)
    element = ir.Type.parse(dtype.mlir)
    shaped = ir.RankedTensorType.get(array.shape, element)
    if array.size and (array.size == 1 or (array.reshape(-1)[0] == array).all()):
        return ir.DenseElementsAttr.get_splat(shaped, _splat(element, dtype, array.reshape(-1)[0]))
    if dtype.extension:  # MLIR's binding reads no element of these back: make a float32 or int8 constant and cast it
        raise TypeError_(f"a constant of type {dtype} must be uniform")
    if dtype.is_bool:
        return ir.DenseElementsAttr.get([_splat(element, dtype, v) for v in array.reshape(-1)], shaped)
    return ir.DenseElementsAttr.get(np.ascontiguousarray(array), type=element, shape=list(array.shape))


def _splat(element: ir.Type, dtype: dtypes.DType, value: Any) -> ir.Attribute:
    return ir.FloatAttr.get(element, float(value)) if dtype.is_float else ir.IntegerAttr.get(element, int(value))


def decode_array(attribute: ir.Attribute) -> np.ndarray:
    """The array of a constant, with its full shape."""
    dense = ir.DenseElementsAttr(attribute)
    t = from_mlir(dense.type)
    if dense.is_splat:
        value = dense.get_splat_value()
        scalar = ir.FloatAttr(value).value if t.dtype.is_float else ir.IntegerAttr(value).value
        return np.full(t.shape, scalar).astype(t.dtype.numpy)
    if t.dtype.is_bool:
        return np.array(list(ir.DenseIntElementsAttr(dense))).astype(bool).reshape(t.shape)
    return np.array(dense).astype(t.dtype.numpy, copy=False).reshape(t.shape)


Int = Annotated[int, Codec(_i64, lambda a: ir.IntegerAttr(a).value)]
Ints = Annotated[tuple[int, ...], Codec(lambda v: ir.DenseI64ArrayAttr.get([int(i) for i in v]), lambda a: tuple(ir.DenseI64ArrayAttr(a)))]
Float = Annotated[float, Codec(lambda v: ir.FloatAttr.get_f64(float(v)), lambda a: ir.FloatAttr(a).value)]
Flag = Annotated[bool, Codec(lambda v: ir.BoolAttr.get(bool(v)), lambda a: ir.BoolAttr(a).value)]
Mark = Annotated[bool, Codec(lambda v: ir.UnitAttr.get(), lambda a: True, optional=True)]
Str = Annotated[str, Codec(lambda v: ir.StringAttr.get(v), lambda a: ir.StringAttr(a).value)]
DTypeOf = Annotated[dtypes.DType, Codec(lambda v: ir.TypeAttr.get(ir.Type.parse(v.mlir)), lambda a: dtypes.BY_MLIR[str(ir.TypeAttr(a).value)])]
Array = Annotated[np.ndarray, Codec(encode_array, decode_array)]


@dataclass(frozen=True)
class Maps:
    """Which operand elements a point of the iteration space reads.

    `domain`: sizes of the iteration space, the result's axes first, then the axes that are reduced. `reads[k]`: an expression for each axis of
    operand k. A read outside the operand, or where a `guards` expression of that operand is not 0, gives `outside`. A symbol is the value of an
    integer operand at its own read.
    """

    domain: tuple[int, ...]
    reads: tuple[tuple[index.Expr, ...], ...]
    outside: float | None = None
    guards: tuple[tuple[int, index.Expr], ...] = ()

    def in_bounds(self, operand: int, shape: Sequence[int]) -> bool:
        """True where the reads of an operand are provably inside it and unguarded."""
        if any(k == operand for k, _ in self.guards):
            return False
        ranges = [index.bounds(e, self.domain) for e in self.reads[operand]]
        return all(low >= 0 and high < n for (low, high), n in zip(ranges, shape))


# How an op is computed, for the passes and the code generators:
#   elementwise  scalar(values at the same point)          view     the value of one operand at another place
#   generator    scalar(index), no operand read as tensor   gather   a view whose place depends on data
#   join         the first operand whose read is inside     reduce   a fold over reduced axes
#   contract     a sum of products over reduced axes        whole    needs an axis at once (sort, fft, cumulative, scatter)
#   control      holds regions
STRUCTURES = ("elementwise", "generator", "view", "gather", "join", "reduce", "contract", "whole", "control")
POINTWISE = STRUCTURES[:5]  # those that need no memory of their own: a kernel computes an element where it is read


def _field(op: "Op", place: str, start: int, many: bool) -> Any:
    values = getattr(op, place)
    return list(values)[start:] if many else values[start]


def _attribute(op: "Op", k: str, codec: Codec) -> Any:
    return False if codec.optional and k not in op.attributes else codec.decode(op.attributes[k])


class Op(ir.OpView):
    """Base of the ops; see the module's docstring."""

    structure = "elementwise"
    _codecs: "dict[str, Codec]" = {}  # noqa: RUF012  (each class has its own)
    _op_name = ""

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {k: v.__metadata__[0] for k, v in inspect.get_annotations(cls).items() if hasattr(v, "__metadata__")}
        cls._codecs = {**cls._codecs, **{k: v for k, v in own.items() if isinstance(v, Codec)}}
        for place, one in (("operands", "operand"), ("results", "result"), ("regions", "region")):
            fields = [k for k, v in own.items() if v in (one, place)]
            for i, k in enumerate(fields):
                setattr(cls, k, property(functools.partial(_field, place=place, start=i, many=own[k] == place)))
        for k, codec in cls._codecs.items():
            setattr(cls, k, property(functools.partial(_attribute, k=k, codec=codec)))
        if name:
            cls._op_name = name
            cls.OPERATION_NAME = f"nn.{name}"
            TABLE[name] = cls

    @classmethod
    def of(cls, *operands: ir.Value, **attributes: Any) -> Any:
        """Builds the op at the insertion point and location in force; its result, or the list of its results."""
        types = cls.infer([type_of(v) for v in operands], **attributes)
        encoded = {k: codec.encode(attributes[k]) for k, codec in cls._codecs.items() if not codec.optional or attributes.get(k)}
        op = ir.Operation.create(cls.OPERATION_NAME, [t.to_mlir() for t in types], list(operands), encoded)
        return op.results[0] if len(types) == 1 else list(op.results)

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        """The types of the results."""
        raise NotImplementedError(cls.__name__)

    def values(self) -> dict[str, Any]:
        """The attributes as Python values."""
        return {k: _attribute(self, k, codec) for k, codec in self._codecs.items()}

    def types(self) -> list[TensorType]:
        """The types of the operands."""
        return [type_of(v) for v in self.operands]

    @property
    def type(self) -> TensorType:
        """The type of the only result."""
        return type_of(self.results[0])

    def reference(self, *operands: np.ndarray) -> Any:
        """What the op computes, in numpy: an array, or a tuple where there are several results."""
        raise NotImplementedError(type(self).__name__)

    def gradient(self, *grads: ir.Value | None) -> list[ir.Value | None]:
        """Gradients of the operands from those of the results (None: zero). None for an operand through which nothing flows."""
        return [None] * len(self.operands)

    def maps(self) -> Maps:
        """The index maps; the identity where nothing else is said."""
        shape = self.type.shape
        same = tuple(index.Dim(k) for k in range(len(shape)))
        return Maps(shape, tuple(same for _ in self.operands))

    def scalar(self, s: Any, *values: Any) -> Any:
        """The value at a point, from the operands' values there, written in the primitives of `s` (see `ir/scalar.py`)."""
        raise NotImplementedError(type(self).__name__)

    def check(self) -> None:
        """Raises where the op does not hold together: here, where the result types are not the inferred ones."""
        expected = type(self).infer(self.types(), **self.values())
        found = [type_of(v) for v in self.results]
        if expected != found:
            raise ShapeError(f"{self._op_name} gives {', '.join(map(str, expected))}, declared {', '.join(map(str, found))}")


TABLE: dict[str, type[Op]] = {}


class NN:
    """The namespace of the dialect.

    IRDL, by which MLIR's Python bindings register a dialect, binds one type variable to all elements of a variadic operand, so that an op over
    tensors of different types (concat, scan, kernel) cannot be declared. The ops are therefore unregistered for MLIR, their classes are registered
    as views of their names, and `ir.verify` is the verifier.
    """

    DIALECT_NAMESPACE = "nn"


def context() -> ir.Context:
    """A context in which nn ops can be made and parsed; enter it with `with`."""
    from . import ops  # noqa: F401  (fills the table)

    _register()
    made = ir.Context(load_on_create_dialects=["builtin", "func"])  # all that there are take 5 ms
    made.allow_unregistered_dialects = True
    return made


@functools.cache
def _register() -> None:
    for cls in TABLE.values():
        register_operation(NN)(cls)
