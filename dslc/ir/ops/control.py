"""Ops with regions: scan, cond, kernel; `grad`, which `differentiate` expands; `fft`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import ShapeError, TypeError_

from ..mlir import ir
from ..op import Flag, Int, Op, Operand, Operands, Region, Result, Results, Str
from ..types import TensorType, from_mlir, type_of


class Yield(Op, name="yield"):
    """Ends a region with its values."""

    xs: Operands
    structure = "control"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        return []


def region_results(region: ir.Region) -> list[TensorType]:
    """The types that a region yields."""
    return [type_of(v) for v in list(region.blocks[0].operations)[-1].operands]


def _build(
    cls: type[Op], operands: Sequence[ir.Value], results: Sequence[TensorType], attributes: dict[str, Any], bodies: Sequence[Sequence[TensorType]]
) -> Any:
    """The op with one empty block a region, whose arguments have the given types."""
    encoded = {k: codec.encode(attributes[k]) for k, codec in cls._codecs.items()}
    op = ir.Operation.create(cls.OPERATION_NAME, [t.to_mlir() for t in results], list(operands), encoded, regions=len(bodies))
    for region, types in zip(op.regions, bodies):
        region.blocks.append(*[t.to_mlir() for t in types], arg_locs=[ir.Location.unknown()] * len(types))
    return op.opview


FIRSTS = "firsts"  # a scan's attribute, see there


@dataclass(frozen=True)
class Rows:
    """A tensor that a scan takes apart from row `first` on: `count` rows a turn, or one without its axis (0)."""

    value: ir.Value
    count: int = 0
    first: int = 0

    @property
    def type(self) -> TensorType:
        """Of one turn's slice."""
        t = type_of(self.value)
        return t.with_shape((self.count, *t.shape[1:]) if self.count else t.shape[1:])


def rows_of(stack: TensorType, one: TensorType) -> int | None:
    """How many rows of a stack one turn of a scan has; None where the types do not fit."""
    if stack.rank == 0 or stack.dtype != one.dtype or stack.shape[1:] not in (one.shape, one.shape[1:]):
        return None
    return 1 if stack.rank > one.rank else one.shape[0] if stack.rank == one.rank else None


class Scan(Op, name="scan"):
    """A loop of `trip` turns that carries values.

    Operands: `constants` whole tensors, then the starting values of `carries`, then tensors whose first axis (of length `trip`) is taken apart, one
    slice a turn. The body gets (turn: int32[], constants, carries, slices) and yields (next carries, emitted values). Results: the last carries,
    then the emitted values stacked along a new first axis. With `backward` the turns run from trip - 1 down to 0; slices and stacks go by turn.

    A scan over segments takes and gives several rows a turn: a slice, or an emitted value, of the rank of its stack has so many of the rows as its
    first axis is long. Turn 0 then begins at row `firsts[k]` of the k-th sliced tensor, and what lies before and behind is left alone.
    """

    xs: Operands
    ys: Results
    body: Region
    trip: Int
    constants: Int
    carries: Int
    backward: Flag
    structure = "control"

    @classmethod
    def build(cls, constants: Sequence[ir.Value], carries: Sequence[ir.Value], slices: Sequence[ir.Value], emits: Sequence[TensorType], trip: int,
              backward: bool = False) -> "Scan":  # fmt: skip
        """The scan with an empty body block; fill it and end it with `Yield.of(*next_carries, *emitted)`. `emits`: types of one turn's values."""
        rows = [Rows(v) for v in slices]
        return cls.build_in_rows(constants, carries, rows, [(t, 0) for t in emits], trip, backward)

    @classmethod
    def build_in_rows(cls, constants: Sequence[ir.Value], carries: Sequence[ir.Value], slices: "Sequence[Rows]",
                      emits: Sequence[tuple[TensorType, int]], trip: int, backward: bool) -> "Scan":  # fmt: skip
        """As `build`, with several rows a turn where wanted: `emits` are types of one turn's values, with their rows as in `Rows.count`."""
        carried = [type_of(v) for v in carries]
        body = [TensorType(dtypes.INT32, ()), *(type_of(v) for v in constants), *carried, *(s.type for s in slices)]
        stacks = [t.with_shape((trip * t.shape[0], *t.shape[1:]) if rows else (trip, *t.shape)) for t, rows in emits]
        attributes = {"trip": trip, "constants": len(constants), "carries": len(carries), "backward": backward}
        made = _build(cls, [*constants, *carries, *(s.value for s in slices)], [*carried, *stacks], attributes, [body])
        if any(s.first or type_of(s.value).shape[0] != trip * max(s.count, 1) for s in slices):
            made.attributes[FIRSTS] = ir.DenseI64ArrayAttr.get([s.first for s in slices])
        return made

    @property
    def firsts(self) -> list[int]:
        """The row of each sliced tensor at which turn 0 begins."""
        if FIRSTS in self.attributes:
            return list(ir.DenseI64ArrayAttr(self.attributes[FIRSTS]))
        return [0] * (len(self.operands) - self.constants - self.carries)

    def check(self) -> None:
        c, k, trip = self.constants, self.carries, self.trip
        types, arguments = self.types(), [type_of(v) for v in self.regions[0].blocks[0].arguments]
        fits = arguments[: 1 + c + k] == [TensorType(dtypes.INT32, ()), *types[: c + k]] and len(arguments) == 1 + len(types)
        if not fits or len(self.firsts) != len(types) - c - k:
            raise TypeError_("the arguments of a scan's body do not fit its operands")
        for t, inner, first in zip(types[c + k :], arguments[1 + c + k :], self.firsts):
            rows = rows_of(t, inner)
            if rows is None:
                raise TypeError_("the arguments of a scan's body do not fit its operands")
            exact = FIRSTS not in self.attributes and inner.rank < t.rank
            if not (t.shape[0] == trip if exact else 0 <= first <= t.shape[0] - trip * rows):
                raise ShapeError(f"a scan of {trip} turns over {t}")
        given = region_results(self.regions[0])
        if given[:k] != types[c : c + k]:
            raise TypeError_(f"a scan carries {[str(t) for t in types[c : c + k]]} and its body gives {[str(t) for t in given[:k]]}")
        results = [type_of(v) for v in self.results]
        stacked = len(results) == len(given) and all((n := rows_of(t, one)) and t.shape[0] == trip * n for t, one in zip(results[k:], given[k:]))
        if results[:k] != given[:k] or not stacked:
            raise TypeError_("the results of a scan do not fit what its body yields")


class Cond(Op, name="cond"):
    """The results of the first region where the rank-0 bool operand holds, else of the second; both get the other operands as arguments"""

    condition: Operand
    xs: Operands
    ys: Results
    then: Region
    otherwise: Region
    structure = "control"

    @classmethod
    def build(cls, condition: ir.Value, operands: Sequence[ir.Value], results: Sequence[TensorType]) -> "Cond":
        """The op with two empty blocks; fill and end both with `Yield`."""
        types = [type_of(v) for v in operands]
        return _build(cls, [condition, *operands], results, {}, [types, types])

    def check(self) -> None:
        if self.types()[0] != TensorType(dtypes.BOOL, ()):
            raise TypeError_(f"cond takes a rank-0 bool, this is {self.types()[0]}")
        for region in self.regions:
            if [type_of(v) for v in region.blocks[0].arguments] != self.types()[1:]:
                raise TypeError_("the arguments of a branch do not fit the operands of cond")
            if region_results(region) != [type_of(v) for v in self.results]:
                raise TypeError_("the branches of cond give different types")


class Grad(Op, name="grad"):
    """The gradients of a rank-0 `loss` with respect to `wrt`, one result each; `differentiate` replaces it by what computes them"""

    loss: Operand
    wrt: Operands
    gs: Results
    structure = "control"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        if operands[0].rank or not operands[0].dtype.is_float:
            raise ShapeError(f"grad takes a rank-0 float, this is {operands[0]}")
        for t in operands[1:]:
            if not t.dtype.is_float:
                raise TypeError_(f"grad with respect to {t}")
        return list(operands[1:])


class FFT(Op, name="fft"):
    """The discrete Fourier transform of re + i*im along `axis`, as (re, im); the inverse is divided by the length"""

    re: Operand
    im: Operand
    out_re: Result
    out_im: Result
    axis: Int
    inverse: Flag
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        re, im = operands
        if re != im or not re.dtype.is_float or not 0 <= attributes["axis"] < re.rank:
            raise ShapeError(f"fft of {re} and {im} along axis {attributes['axis']}")
        return [re, im]

    def reference(self, re: np.ndarray, im: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = (np.fft.ifft if self.inverse else np.fft.fft)(re + 1j * im, axis=self.axis)
        return z.real.astype(re.dtype), z.imag.astype(re.dtype)

    def gradient(self, g_re: ir.Value | None, g_im: ir.Value | None) -> list:
        """The adjoint of the transform is the conjugate transform: the inverse one times n, or the forward one divided by n."""
        from .constant import full, full_like
        from .elementwise import Mul

        t, n = type_of(self.re), type_of(self.re).shape[self.axis]
        g_re, g_im = g_re if g_re is not None else full(t, 0), g_im if g_im is not None else full(t, 0)
        re, im = FFT.of(g_re, g_im, axis=self.axis, inverse=not self.inverse)
        scale = full_like(re, 1 / n if self.inverse else n)
        return [Mul.of(re, scale), Mul.of(im, scale)]


# Kernel kinds, what the code generators know: see docs/architecture.md.
KERNEL_KINDS = ("map", "reduce", "contract", "attention", "scan", "scatter", "put", "sort", "fft", "update", "product")


class Kernel(Op, name="kernel"):
    """Ops that run as one kernel: a region isolated from above, ended by `yield`.

    `kind` says which generator writes it, `role` names it for people, `schedule` is the tile pass's choice as JSON ("{}" before it ran). The body
    holds table ops on whole tensors; the block's arguments are the operands, the yielded values the results.
    """

    xs: Operands
    ys: Results
    body: Region
    kind: Str
    role: Str
    schedule: Str
    structure = "control"

    @classmethod
    def build(cls, operands: Sequence[ir.Value], results: Sequence[TensorType], kind: str, role: str, schedule: str = "{}") -> "Kernel":
        """The kernel with an empty body block; fill it and end it with `Yield.of(...)`."""
        return _build(cls, operands, results, {"kind": kind, "role": role, "schedule": schedule}, [[type_of(v) for v in operands]])

    def check(self) -> None:
        if self.kind not in KERNEL_KINDS:
            raise TypeError_(f"unknown kind of kernel {self.kind!r}")
        if [type_of(v) for v in self.regions[0].blocks[0].arguments] != self.types():
            raise TypeError_("the arguments of a kernel do not fit its operands")
        if region_results(self.regions[0]) != [from_mlir(v.type) for v in self.results]:
            raise TypeError_("a kernel's results do not fit what it yields")
