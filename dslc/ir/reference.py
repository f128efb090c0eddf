"""The reference target, the oracle of every test: op by op in numpy, floats in float64, rounding only at explicit casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dslc.core.dtypes import DType

from .mlir import func, ir
from .op import Op
from .ops import Compare, Cond, Constant, Grad, Kernel, Reshape, Scan, View
from .ops.constant import EXACT
from .ops.elementwise import cast_array
from .program import arguments_of, program_of, results_of
from .types import type_of

Watch = Callable[[Op, Sequence[np.ndarray]], None]


def run(module: ir.Module, arguments: Mapping[str, np.ndarray], watch: Watch | None = None) -> dict[str, np.ndarray]:
    """Results of a module's program by name, from its arguments by name; next values of params and states come under `next.NAME`.

    Floats are computed in float64 whatever the declared type; `watch(op, values)` sees every op's results (to find the first that is not finite).
    """
    program = program_of(module)
    values = [widen(np.asarray(arguments[s.name]).astype(s.type.dtype.numpy)).reshape(s.type.shape) for s in arguments_of(program)]
    env = dict(zip(program.entry_block.arguments, values))
    _run_block(program.entry_block, env, watch)
    named = {}
    for slot, value in results_of(program):
        named[f"next.{slot.name}" if slot.role in ("param", "state") else slot.name] = env[value]
    return named


def widen(x: np.ndarray) -> np.ndarray:
    """Floats as float64, everything else as it is."""
    return x if (x.dtype.kind in "biu" and x.dtype.name != "bfloat16") or x.dtype.name == "int4" else x.astype(np.float64)


def rounded(x: np.ndarray, dtype: DType) -> np.ndarray:
    """Rounded to a type and widened again: what an explicit cast does."""
    return widen(cast_array(x, dtype))


def _run_block(block: ir.Block, env: dict[ir.Value, np.ndarray], watch: Watch | None) -> list[np.ndarray]:
    """Runs the ops of a block; the operands of its terminator."""
    with np.errstate(all="ignore"):
        for op in block.operations:
            if isinstance(op, func.ReturnOp) or op.name == "nn.yield":
                return [env[v] for v in op.operands]
            operands = [env[v] for v in op.operands]
            values = _run_op(op, operands, watch)
            for result, value in zip(op.results, values):
                env[result] = value
            if watch and not isinstance(op, (Scan, Cond, Kernel)):
                watch(op, values)
    return []


def _run_op(op: Op, operands: list[np.ndarray], watch: Watch | None) -> Sequence[np.ndarray]:
    match op:
        case Kernel():
            return run_region(op.regions[0], operands, watch)
        case Scan():
            return _run_scan(op, operands, watch)
        case Cond():
            return run_region(op.regions[0 if operands[0] else 1], operands[1:], watch)
        case Grad():
            raise RuntimeError("nn.grad must be expanded by `differentiate` before a program runs")
        case Constant():
            return [widen(op.reference()) if EXACT not in op.attributes else np.full(op.type.shape, op.exact)]
        case Compare():  # of data of a type with numbers of this type: 0.1 <= 0.1
            operands = [rounded(x, type_of(v).dtype) if _is_constant(v) else x for x, v in zip(operands, op.operands)]
    if op.name == "nn.cast":
        return [rounded(operands[0], op.dtype)]
    made = op.reference(*operands)
    values = made if isinstance(made, tuple) else (made,)
    return [_settle(v, type_of(r).dtype) for v, r in zip(values, op.results)]


def _is_constant(value: ir.Value) -> bool:
    """A constant, or a view of one."""
    op = None if isinstance(value.owner, ir.Block) else value.owner.opview
    return isinstance(op, Constant) or (isinstance(op, (View, Reshape)) and _is_constant(op.operands[0]))


def _settle(x: np.ndarray, dtype: DType) -> np.ndarray:
    return np.asarray(x, np.float64) if dtype.is_float else np.asarray(x, dtype.numpy)


def run_region(region: ir.Region, operands: Sequence[np.ndarray], watch: Watch | None = None) -> list[np.ndarray]:
    """What a region yields for these widened values of its arguments."""
    block = region.blocks[0]
    return _run_block(block, dict(zip(block.arguments, operands)), watch)


def _turn_of(stack: np.ndarray, rank: int, first: int, rows: int, turn: int) -> np.ndarray:
    """What a scan's turn gets of a tensor."""
    return stack[first + turn] if stack.ndim > rank else stack[first + turn * rows : first + (turn + 1) * rows]


def _run_scan(op: Scan, operands: list[np.ndarray], watch: Watch | None) -> list[np.ndarray]:
    constants, carries, slices = (
        operands[: op.constants],
        operands[op.constants : op.constants + op.carries],
        operands[op.constants + op.carries :],
    )
    stacks = [np.zeros(type_of(v).shape, np.float64 if type_of(v).dtype.is_float else type_of(v).dtype.numpy) for v in list(op.results)[op.carries :]]
    turns = range(op.trip - 1, -1, -1) if op.backward else range(op.trip)
    given_types = [type_of(v) for v in list(op.regions[0].blocks[0].arguments)[1 + op.constants + op.carries :]]
    parts = [(x, t.rank, first, t.shape[0] if t.rank else 1) for x, t, first in zip(slices, given_types, op.firsts)]
    for t in turns:
        given = run_region(op.regions[0], [np.asarray(t, np.int32), *constants, *carries, *(_turn_of(*part, t) for part in parts)], watch)
        carries = given[: op.carries]
        for stack, value in zip(stacks, given[op.carries :]):
            rows = len(stack) // op.trip
            stack[t * rows : (t + 1) * rows] = value
    return [*carries, *stacks]
