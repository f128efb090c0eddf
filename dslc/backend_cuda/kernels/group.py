"""A group of threads that has a row: how rows are shared out, the states of folds that each thread has, and how these become one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from dslc.core.dtypes import BOOL
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.rows import Fold

from ..scalars import Arithmetic, Val
from ..stage import FunctionWriter
from ..types import computed_type
from .one_pass import Moments, moments_combined

WARP = 32


@dataclass(frozen=True)
class Layout:
    """How rows are shared out. `across`: a group's threads are neighbours along the reduced axes, else threads are along the kept dim `dim`.

    `threads`: of a group, which has a row, or `width` neighbouring rows; `rows`: groups of a block; `width`: neighbouring points a thread takes at
    once, along the reduced axes or along `dim`; `turns`: chunks that a thread takes of a row, where its values stay in registers between passes,
    or, with `shared`, in its own part of shared memory, else 0.
    """

    across: bool
    dim: int | None
    threads: int
    rows: int
    width: int
    turns: int
    shared: bool = False

    @property
    def block(self) -> int:
        return self.threads * self.rows

    @property
    def columns(self) -> int:
        """Neighbouring rows of a thread."""
        return 1 if self.across else self.width


@dataclass(frozen=True)
class State:
    """The running state of a fold: names of the variables that hold its parts, elements `j` of arrays where a thread has several rows."""

    fold: Fold
    names: tuple[str, ...]

    @property
    def values(self) -> list[Val]:
        return [Val(n, t) for n, t in zip(self.names, self.fold.parts)]


def start_of(s: Arithmetic, fold: Fold) -> list[Val]:
    """What an empty fold's state is."""
    kind = {"argmax": "max", "argmin": "min"}.get(fold.kind, fold.kind)
    if isinstance(fold, Moments):
        return [s.const(0, t) for t in fold.parts]
    return [s.const(v, t) for v, t in zip((identity(kind, fold.dtype), 0), fold.parts)]


def combined(s: Arithmetic, fold: Fold, a: Sequence[Val], b: Sequence[Val]) -> list[Val]:
    """The fold of two states; of equal extremes the earlier one in the axis is kept, of NaNs the first."""
    if isinstance(fold, Moments):
        return moments_combined(s, a, b)
    if fold.place is None:
        return [getattr(s, KINDS[fold.kind][2])(a[0], b[0])]
    better = s.call(f"better_{fold.kind}", *a, *b, dtype=BOOL)
    return [s.select(better, y, x) for x, y in zip(a, b)]


def fold_in(w: FunctionWriter, state: State, other: Sequence[Val]) -> None:
    """Writes the fold of another state into this one."""
    for name, v in zip(state.names, combined(Arithmetic(w), state.fold, state.values, other)):
        w.line(f"{name} = {v.text};")


def each_row(w: FunctionWriter, layout: Layout) -> AbstractContextManager[None]:
    """What is inside is done for each of a thread's rows, `j`."""
    return w.unrolled("j", layout.columns) if layout.columns > 1 else nullcontext()


def meet(w: FunctionWriter, layout: Layout, states: Sequence[State]) -> None:
    """The states of a row's threads folded, so that each of them has the result."""
    if not states:
        return
    if layout.across:
        _butterfly(w, layout, states, min(layout.threads, WARP) // 2, 1)
        if layout.threads > WARP:
            _through_shared(w, layout, states, 1)
    elif layout.threads > 1:
        if layout.rows < WARP:
            _butterfly(w, layout, states, WARP // 2, layout.rows)
        _through_shared(w, layout, states, layout.rows)


def _butterfly(w: FunctionWriter, layout: Layout, states: Sequence[State], first: int, last: int) -> None:
    """The states of lanes at distances of `first`, half of that, down to `last`."""
    w.line("#pragma unroll")
    with w.block(f"for (int offset = {first}; offset >= {last}; offset /= 2)"), each_row(w, layout):
        s = Arithmetic(w)
        for state in states:
            other = []
            for v in state.values:
                other.append(s.made(f"__shfl_xor_sync(0xffffffffu, {v.text}, offset)", v.dtype))
            fold_in(w, state, other)


def _through_shared(w: FunctionWriter, layout: Layout, states: Sequence[State], lanes: int) -> None:
    """The first `lanes` lanes of every warp write their states to shared memory; those of each row are folded in the order of the warps, by a
    thread for each row, and read by all. Those of one row alone are folded by every thread for itself: one barrier less."""
    warps, rows = layout.block // WARP, lanes * layout.columns
    if warps == 1:
        return
    arrays = []
    for state in states:
        arrays.append([w.fresh("shared") for _ in state.values])
        for name, v in zip(arrays[-1], state.values):
            w.line(f"__shared__ {computed_type(v.dtype)} {name}[{warps * rows}];")
    column = "0" if lanes == 1 else f"threadIdx.x % {lanes}u"
    mine = f"{column} * {layout.columns} + j" if layout.columns > 1 else column
    with w.block(f"if (threadIdx.x % {WARP}u < {lanes})"), each_row(w, layout):
        for state, names in zip(states, arrays):
            for name, v in zip(names, state.values):
                w.line(f"{name}[threadIdx.x / {WARP}u * {rows} + {mine}] = {v.text};")
    w.line("__syncthreads();")
    s = Arithmetic(w)
    if rows == 1:
        for state, names in zip(states, arrays):
            for name, array in zip(state.names, names):
                w.line(f"{name} = {array}[0];")
        with w.block(f"for (int warp = 1; warp < {warps}; ++warp)"):
            for state, names in zip(states, arrays):
                other = [s.made(f"{array}[warp]", v.dtype) for array, v in zip(names, state.values)]
                fold_in(w, state, other)
        return
    with w.block(f"for (int r = threadIdx.x; r < {rows}; r += {layout.block})"):
        totals = []
        for state, names in zip(states, arrays):
            totals.append(State(state.fold, tuple(w.fresh("total") for _ in names)))
            for name, array, v in zip(totals[-1].names, names, state.values):
                w.line(f"{computed_type(v.dtype)} {name} = {array}[r];")
        with w.block(f"for (int warp = 1; warp < {warps}; ++warp)"):
            for total, names in zip(totals, arrays):
                other = [s.made(f"{array}[warp * {rows} + r]", v.dtype) for array, v in zip(names, total.values)]
                fold_in(w, total, other)
        for total, names in zip(totals, arrays):
            for array, name in zip(names, total.names):
                w.line(f"{array}[r] = {name};")
    w.line("__syncthreads();")
    with each_row(w, layout):
        for state, names in zip(states, arrays):
            for name, array in zip(state.names, names):
                w.line(f"{name} = {array}[{mine}];")
