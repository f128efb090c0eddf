"""Update kernels: the same elementwise work on many tensors of different sizes, as an optimizer's step over all parameters, in one launch.

What one tensor needs is written once, without its size (`Flat`). A block finds the tensor that its points belong to in a table of first blocks, and
its addresses in tables of pointers; what all tensors share, as a rate, is a parameter as usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dslc.ir.index import Const, Dim, Expr
from dslc.ir.trace import Read, invariant, survey

from ..pull import Point
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Memory, Parameter, Request
from ..text import Writer
from ..types import computed_type
from .map import Sweep, load_chunk, sweep_of

THREADS = 256
TURNS = 8  # chunks of points that a thread takes one after the other
INCLUDES = ("groups.cuh",)


@dataclass(frozen=True)
class Flat:
    """A tensor's part of an update: what is done at every point, each read and written at its own. `once` stands before the loop over the points,
    `text` inside it. They name the operands `a0`, ... in the order in which they are met, the results `y0`, ..., the first of `width` points `p`, and
    `count` points. `parameters`: names and types of operands and results.
    """

    once: tuple[str, ...]
    text: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    width: int

    def writes(self, k: int) -> bool:
        """Whether parameter k is a result."""
        return not self.parameters[k][1].startswith("const ")


class _Writer(FunctionWriter):
    """Names operands in the order in which they are met, so that equal work has equal text."""

    def operand(self, k: int) -> Memory:
        known = [p.number for p in self.parameters.values() if p.source == "operand"]
        t = self.request.operands[k]
        return self._pointer(f"a{known.index(k) if k in known else len(known)}", "operand", k, t, "const ")


def flat_of(request: Request) -> tuple[Flat, tuple[int, ...]] | None:
    """The part of one tensor, and which of the operands and results, counted through, its parameters are; None where it is not the same at every
    point, or not aligned to 16 bytes."""
    types = (*request.operands, *request.results)
    if not all(request.aligned) or any(t.dtype.bits < 8 for t in types) or not 1 < request.results[0].size < 2**31 - 2**20:
        return None
    sweep = sweep_of(request, range(len(request.results)))
    found = survey(sweep.trace, sweep.roots)
    if len(sweep.trace.sizes) != 1 or sweep.address != Dim(0) or not all(map(_is_flat, found.expressions)) or any(r.tests for r in found.reads):
        return None
    moving = [r for r in found.reads if r.address == Dim(0)]
    width = min(16 // min(t.bytes for t in (*(r.dtype for r in moving), *(t.dtype for t in request.results))), 8)
    w = _Writer(request)
    base = Point(w, sweep.trace, w.operand, ["p"])
    known = {id(node): base.value(node) for node in invariant(sweep.trace, sweep.roots, {0})}
    before = len(w.lines)
    _points(w, sweep, base, moving, known, width)
    parameters = w.parameters.values()
    numbers = tuple(p.number + (len(request.operands) if p.source == "result" else 0) for p in parameters)
    return Flat(tuple(w.lines[:before]), tuple(w.lines[before:]), tuple((p.name, p.type) for p in parameters), width), numbers


def _is_flat(e: Expr) -> bool:
    return e == Dim(0) or isinstance(e, Const)


def _points(w: FunctionWriter, sweep: Sweep, base: Point, moving: Sequence[Read], known: dict[int, Val], width: int) -> None:
    """`width` points from `p` on: chunks loaded, the loop over the points, chunks stored."""
    for read in moving:
        known[id(read)] = Val(f"{load_chunk(w, base, w.operand, read, width, 'count - p')}[j]", read.dtype)
    outs = [w.fresh("out") for _ in sweep.roots]
    for name, t in zip(outs, w.request.results):
        w.line(f"{computed_type(t.dtype)} {name}[{width}];")
    with w.unrolled("j", width):
        point = Point(w, sweep.trace, w.operand, ["(p + j)"], known=known)
        for name, root in zip(outs, sweep.roots):
            w.line(f"{name}[j] = {point.value(root).text};")
    for k, name in enumerate(outs):
        w.line(f"store_some<{width}>({w.result(k).name} + p, count - p, {name});")


def stacked(name: str, flat: Flat, counts: Sequence[int], shared: Sequence[bool]) -> Generated:
    """One function for several tensors: `counts` are their sizes, `shared` says of each of `flat`'s parameters whether it is the same for all. Of the
    function's parameters, the k-th one of `flat` is number k of source "shared", or of "pointers", a table of pointers."""
    block = THREADS * flat.width * TURNS
    blocks = [-(-n // block) for n in counts]
    firsts = np.cumsum([0, *blocks[:-1]])
    parameters = [Parameter(p, t, "shared", k) if same else Parameter(f"{p}s", t.rstrip("*") + "* const*", "pointers", k)
                  for k, ((p, t), same) in enumerate(zip(flat.parameters, shared))]  # fmt: skip
    parameters += [Parameter(table, "const int*", "table", k) for k, table in enumerate(("firsts", "counts"))]
    w = Writer()
    w.line(f"const int group = last_up_to(firsts, {len(counts)}, blockIdx.x);")
    w.line("const int count = counts[group];")
    for (p, t), same in zip(flat.parameters, shared):
        if not same:
            w.line(f"{t} {p} = {p}s[group];")
    w.lines += flat.once
    w.line(f"int p = (blockIdx.x - firsts[group]) * {block} + threadIdx.x * {flat.width};")
    with w.block(f"for (int turn = 0; turn < {TURNS} && p < count; ++turn, p += {THREADS * flat.width})"):
        w.lines += ["    " + line for line in flat.text]
    words = f"{len(counts)} tensors of {min(counts):,} to {max(counts):,} points, {TURNS} x {flat.width} points a thread, {THREADS} threads a block"
    function = Function(name, tuple(parameters), w.text(), (sum(blocks), 1, 1), (THREADS, 1, 1), schedule=words)
    return Generated((function,), tables=(firsts.astype(np.int32), np.asarray(counts, np.int32)), includes=INCLUDES)
