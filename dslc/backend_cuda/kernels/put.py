"""Put kernels: rows of new values written into a tensor that lies where the result is; nothing else of it is touched."""

from __future__ import annotations

from math import prod

from dslc.ir.puts import traced
from dslc.ir.rows import Unsuited
from dslc.ir.types import type_of

from ..pull import Point
from ..stage import FunctionWriter, Generated, Request, index_type
from .map import delinearized

THREADS = 256


def generate(request: Request) -> Generated:
    """One function: a thread an element of the row."""
    ops = [op for op in request.body.ops if op.operation.name == "nn.put"]
    if len(ops) != 1 or request.body.results != list(ops[0].results):
        raise Unsuited("more than one put")
    op = ops[0]
    points = type_of(op.row).size
    if points == 0:
        return Generated(())
    space, trace, address, inside = traced(request.body, op)
    w = FunctionWriter(request)
    integer = index_type(*(t.size for t in (*request.operands, *request.results)))
    w.line(f"const int p = blockIdx.x * {THREADS} + threadIdx.x;")
    w.line(f"if (p >= {prod(space.sizes)}) return;")
    point = Point(w, trace, w.operand, delinearized(w, "p", space.sizes), integer=integer)
    value = point.value(trace.at(op.row, space.axes)).text
    w.line(f"if ({point.all_of([inside])}) store({w.result(0).name} + {point.index(address)}, {value});")
    return Generated((w.function((-(-points // THREADS),), (THREADS,), schedule="a thread an element of the row"),))
