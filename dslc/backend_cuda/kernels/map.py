"""Map kernels: pointwise ops over one iteration space, in one pass over memory.

A thread computes a few neighbouring points, as many as one access of 16 bytes holds. What it reads as a chunk is loaded before the loop over its
points, what does not move between them is computed before it; all values are made before the first store, since a result may lie where an operand
is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from dslc.ir import index
from dslc.ir.index import Expr
from dslc.ir.space import Space, collapse
from dslc.ir.trace import Node, Provide, Read, Trace, divisions, invariant, survey

from ..pull import Point, chunked, moves_with
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Memory, Request, index_type
from ..types import computed_type

THREADS = 256


@dataclass(frozen=True)
class Sweep:
    """Some results of one shape, computed at every point of a space. `buffers`: what operands behind the kernel's own are, in a function."""

    request: Request
    trace: Trace
    roots: tuple[Node, ...]
    numbers: tuple[int, ...]  # of the results
    address: Expr
    buffers: Callable[[FunctionWriter, int], Memory] | None = None


def generate(request: Request) -> Generated:
    """One function."""
    if request.results[0].size == 0:
        return Generated(())
    return Generated((sweep_function(sweep_of(request, range(len(request.results)))),))


def sweep_of(request: Request, numbers: Sequence[int], provide: Provide | None = None,
             buffers: Callable[[FunctionWriter, int], Memory] | None = None) -> Sweep:  # fmt: skip
    """The sweep that computes the results of these numbers, which have one shape."""
    values = [request.body.results[k] for k in numbers]
    shape = request.results[numbers[0]].shape

    def cost(space: Space) -> int:
        trace = Trace(request.body, space.sizes, provide)
        found = survey(trace, [trace.at(v, space.axes) for v in values])
        return (found.divisions + divisions(trace.tidy(index.linearize(space.axes, shape)))) * 16 + sum(1 + len(r.tests) for r in found.reads)

    space = collapse(shape, cost)
    trace = Trace(request.body, space.sizes, provide)
    roots = tuple(trace.at(v, space.axes) for v in values)
    return Sweep(request, trace, roots, tuple(numbers), trace.tidy(index.linearize(space.axes, shape)), buffers)


def sweeps_of(request: Request, provide: Provide, buffers: Callable[[FunctionWriter, int], Memory], skip: Sequence[int] = ()) -> list[Sweep]:
    """Sweeps that make all results but those of the numbers `skip`, one for each shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, t in enumerate(request.results):
        if k not in skip and t.size:
            groups.setdefault(t.shape, []).append(k)
    return [sweep_of(request, numbers, provide, buffers) for numbers in groups.values()]


def sweep_function(sweep: Sweep, suffix: str = "") -> Function:
    """The function of a sweep."""
    from .transposed import crossing_of, transposed_function

    w = FunctionWriter(sweep.request, suffix)
    trace, request = sweep.trace, sweep.request
    sizes = trace.sizes or (1,)
    total = 1
    for n in sizes:
        total *= n
    integer = index_type(total, *(t.size for t in (*request.operands, *request.results)))
    width = _width(sweep, sizes, total)
    last = len(sizes) - 1

    def memory(w: FunctionWriter, k: int) -> Memory:
        if k < len(request.operands):
            return w.operand(k)
        assert sweep.buffers is not None
        return sweep.buffers(w, k - len(request.operands))

    crossing = crossing_of(sweep)
    if crossing is not None:
        return transposed_function(sweep, crossing, memory, suffix)
    threads = total // width
    dims = _place(w, sizes, width, threads, integer)
    here = partial(memory, w)
    base = Point(w, trace, here, dims[: len(trace.sizes)], integer=integer)
    if width == 1:
        values = [base.value(root) for root in sweep.roots]
        for k, value in zip(sweep.numbers, values):
            w.line(f"store({w.result(k).name} + {base.index(sweep.address)}, {value.text});")
    else:
        _chunk(w, sweep, base, here, dims, last, width, integer)
    blocks = -(-threads // THREADS)
    return w.function((blocks,), (THREADS,), schedule=f"{width} points a thread, {THREADS} threads a block")


def _place(w: FunctionWriter, sizes: Sequence[int], width: int, threads: int, integer: str) -> list[str]:
    """Writes the indices of a thread's first point; their names."""
    block = "blockIdx.x" if integer == "int" else f"({integer})blockIdx.x"
    w.line(f"const {integer} p = {block} * {THREADS} + threadIdx.x;")
    w.line(f"if (p >= {threads}) return;")
    return delinearized(w, "p", [*sizes[:-1], sizes[-1] // width], width)


def delinearized(w: FunctionWriter, position: str, sizes: Sequence[int], width: int = 1, stem: str = "i") -> list[str]:
    """Writes the indices of a row-major position, the last one times `width`; their names."""
    out: list[str] = []
    below = 1
    for k in range(len(sizes) - 1, -1, -1):
        if sizes[k] == 1:
            out.append("0")
            continue
        part = position if below == 1 else f"{position} / {below}u"
        if any(n > 1 for n in sizes[:k]):
            part = f"{part} % {sizes[k]}u"
        if k == len(sizes) - 1 and width > 1:
            part = f"{part} * {width}"
        kind = "int" if sizes[k] * width < 2**31 - 2**20 else "long long"
        out.append(position if part == position else w.value(stem, kind, part))
        below *= sizes[k]
    return out[::-1]


def _width(sweep: Sweep, sizes: Sequence[int], total: int) -> int:
    """Points a thread: as many as fill 16 bytes of the narrowest chunk, where there are enough points for all processors."""
    last, request = len(sizes) - 1, sweep.request
    reads = survey(sweep.trace, sweep.roots).reads
    types = [r.dtype for r in reads] + [request.results[k].dtype for k in sweep.numbers]
    width = min(16 // min(t.bytes for t in types), 8)
    while width > 1:
        stored = chunked(sweep.address, last, width) and all(request.result_aligned(k) for k in sweep.numbers)
        if sizes[-1] % width == 0 and stored and total // width >= request.arch.sms * THREADS:
            return width
        width //= 2
    return 1


def _chunk(w: FunctionWriter, sweep: Sweep, base: Point, memory: Callable[[int], Memory], dims: list[str], last: int, width: int,
           integer: str) -> None:  # fmt: skip
    """`width` points: chunks loaded, the loop over the points, chunks stored."""
    trace, request = sweep.trace, sweep.request
    known: dict[int, Val] = {}
    for node in invariant(trace, sweep.roots, {last}):
        known[id(node)] = base.value(node)
    for read in survey(trace, sweep.roots).reads:
        still = not any(moves_with(trace, t.expr, last) for t in read.tests)
        if id(read) not in known and request.operand_aligned(read.operand) and still and chunked(read.address, last, width):
            known[id(read)] = Val(f"{load_chunk(w, base, memory, read, width)}[j]", read.dtype)
    outs = []
    for k in sweep.numbers:
        name = w.fresh("out")
        w.line(f"{computed_type(request.results[k].dtype)} {name}[{width}];")
        outs.append(name)
    with w.unrolled("j", width):
        point = Point(w, trace, memory, [*dims[:last], f"({dims[last]} + j)"], known=known, integer=integer)
        for name, root in zip(outs, sweep.roots):
            w.line(f"{name}[j] = {point.value(root).text};")
    for name, k in zip(outs, sweep.numbers):
        w.line(f"store<{width}>({w.result(k).name} + {base.index(sweep.address)}, {name});")


def load_chunk(w: FunctionWriter, base: Point, memory: Callable[[int], Memory], read: Read, width: int, have: str = "") -> str:
    """Loads neighbouring elements at once into an array; its name. Where a test fails they are 0, and, where it is given, behind `have` of them."""
    name = w.fresh("x")
    source = memory(read.operand).name
    tests = base.open(read.tests)
    w.line(f"{computed_type(read.dtype)} {name}[{width}]{' = {}' if tests else ''};")
    test = f"if ({base.all_of(tests)}) " if tests else ""
    load = f"load_some<{width}>({source} + {base.index(read.address)}, {have}" if have else f"load<{width}>({source} + {base.index(read.address)}"
    w.line(f"{test}{load}, {name});")
    if read.dtype.bits == 4:
        with w.unrolled("j", width):
            w.line(f"{name}[j] = wrap_int4({name}[j]);")
    return name
