"""What is known of a kernel's body without generating it: a key that equal bodies share, its work, its lines of the model file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

from .mlir import ir
from .op import Op
from .ops import Constant, Iota, Kernel, Reshape, View
from .trace import Body
from .types import spans_of, type_of

# The kind of kernel of each op that is not pointwise; `attention` and `update` are kinds of several.
KINDS = {"nn.contract": "contract", "nn.conv": "contract", "nn.reduce": "reduce", "nn.argreduce": "reduce", "nn.fold": "reduce", "nn.fft": "fft",
         "nn.cumulative": "scan", "nn.put": "put", "nn.scatter": "scatter", "nn.sort": "sort"}  # fmt: skip


def kernel_key(kernel: Kernel) -> str:
    """What a kernel's code follows from: kind, schedule and body, without names and places in the model file."""
    return f"{kernel.kind} {kernel.schedule} {body_key(Body.of(kernel.regions[0].blocks[0]))}"


def kernel_hash(kind: str, body: Body) -> str:
    """A short name for a kernel, whatever its schedule: under it measured schedules are kept."""
    return hashlib.sha256(f"{kind} {body_key(body)}".encode()).hexdigest()[:32]


def kernels_in(module: ir.Module) -> Iterator[Kernel]:
    """All kernels of a module, those in loops and branches too."""
    stack = list(module.body.operations)
    while stack:
        op = stack.pop()
        if isinstance(op, Kernel):
            yield op
        else:
            stack += [inner for region in op.operation.regions for block in region.blocks for inner in block.operations]


def body_key(body: Body) -> str:
    """The text of a body: types of its operands, its ops with their attributes, the numbers of what it yields."""
    numbers = {v: k for k, v in enumerate(body.operands)}
    parts = [str(v.type) for v in body.operands]
    for op in body.ops:
        operation = op.operation
        operands = ",".join(str(numbers[v]) for v in operation.operands)
        attributes = " ".join(f"{name}={operation.attributes[name]}" for name in sorted(operation.attributes))
        parts.append(f"{operation.name}({operands}) {attributes} {' '.join(str(r.type) for r in operation.results)}")
        for r in operation.results:
            numbers[r] = len(numbers)
    parts.append(" ".join(str(numbers[v]) for v in body.results))
    return "\n".join(parts)


def identifier(role: str) -> str:
    """A kernel's role as a C identifier."""
    return re.sub(r"\W+", "_", role).strip("_") or "kernel"


def locations_of(body: Sequence[Op]) -> list[ir.Location]:
    """Where what a kernel computes comes from. Constants, indices and views, which many lines share, count where it does nothing else."""
    return [op.location for op in body if not isinstance(op, (Constant, Iota, View, Reshape))] or [op.location for op in body]


def lines_of(kernel: Kernel) -> tuple[str, ...]:
    """`file:line` of everything that a kernel computes."""
    locations = locations_of(Body.of(kernel.regions[0].blocks[0]).ops)
    places = [f"{s.file}:{s.line}" for location in (*locations, kernel.location) for s in spans_of(location)]
    return tuple(dict.fromkeys(places))


def work_of(body: Body) -> tuple[int, int]:
    """(operations, bytes moved once) of a kernel, counted from its body: one for each element that an op makes or folds."""
    flops = 0
    for op in body.ops:
        count = _COUNTS.get(op.structure)
        flops += count(op) if count else 0
    return flops, sum(type_of(v).bytes for v in (*body.operands, *body.results))


_COUNTS: dict[str, Callable[[Any], int]] = {
    "elementwise": lambda op: op.type.size,
    "contract": lambda op: 2 * prod(op.maps().domain),
    "reduce": lambda op: prod(op.maps().domain),
    "whole": lambda op: type_of(op.operands[0]).size,
}
