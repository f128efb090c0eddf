"""launches: kernels of few rows that take hardly longer than it takes to launch them become fewer.

A token's step through a decoder is some hundred kernels, each a matrix that is read once or next to nothing. What is next to nothing joins a product
(`ir.few_rows`): a second product over the same points whose sums only the first one's epilogue reads, puts of its sums, the row that it is multiplied
with. What needs nothing of each other runs beside each other in one launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from dslc.ir import ops
from dslc.ir.few_rows import FewRows, few_rows_of, is_few, row_side
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.plan import BESIDE
from dslc.ir.program import arguments_of, program_of, results_of
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body, factor_of, survey
from dslc.ir.types import fuse_locations, type_of

from .fuse import MAX_OPS, role_of
from .regions import clone_into, sort

LAUNCH = 8 << 20  # bytes that go from the second cache to the multiprocessors while a kernel is started
MOST_TERMS = 1 << 14  # of a sum: longer ones are split
SUMS = 64  # neighbouring ones of a block where a matrix lies row by row, and the least number
LEAST_SUMS = 8
BLOCKS = 128  # that a device has at once: sums are given to fewer threads rather than to fewer blocks
MOST_BESIDE = 8  # kernels of a launch
ALIKE = ("contract", "product")


@dataclass(frozen=True)
class Launches:
    """Fewer kernels, and marks (`ir.plan.BESIDE`) on those that run in the launch of the kernel before them.

    before: %n = kernel reduce (%x); %q = kernel contract (%n, %wq); %k = kernel contract (%n, %wk); %c = kernel put (%cache, %k)
    after:  %q = kernel product (%x, %wq); %c = kernel product (%x, %wk, %cache) {nn.beside}
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        block = program.entry_block
        for join in (_second_sums, _puts, _factors):
            join(block)
            sort(block)
        arguments = {s.name: v for s, v in zip(arguments_of(program), block.arguments)}
        _beside(block, {v: arguments[s.name] for s, v in results_of(program) if s.role in ("state", "param") and s.name in arguments})


def _kernels(block: ir.Block) -> list[ops.Kernel]:
    return [op for op in block.operations if isinstance(op, ops.Kernel)]


def _readers(value: ir.Value) -> list[Op]:
    return list({use.owner.operation: use.owner.opview for use in value.uses}.values())


def _maker(value: ir.Value) -> ops.Kernel | None:
    op = None if isinstance(value.owner, ir.Block) else value.owner.opview
    return op if isinstance(op, ops.Kernel) else None


# --- what joins a product


def _second_sums(block: ir.Block) -> None:
    """Products whose sums only one other's epilogue reads."""
    for second in _kernels(block):
        for value in list(second.operands) if second.kind == "contract" else ():
            first = _maker(value)
            if first is not None and first.kind == "contract" and all(_readers(v) == [second] for v in first.results):
                joined = _joined(first, second)
                if joined is not None:
                    second.operation.erase()
                    first.operation.erase()
                    second = joined  # noqa: PLW2901


def _puts(block: ir.Block) -> None:
    """Puts of rows that are made of sums alone."""
    for put in _kernels(block):
        made = {first.operation: first for v in put.operands if (first := _maker(v)) is not None} if put.kind == "put" else {}
        for first in made.values():
            if first.kind not in ALIKE or any(_depends(v, first) for v in put.operands if v not in first.results):
                continue
            joined = _joined(first, put)
            if joined is not None:
                put.operation.erase()
                first.operation.erase()
                break


def _factors(block: ir.Block) -> None:
    """What makes the rows that products alone are multiplied with: each of them makes them again."""
    for made in reversed(_kernels(block)):
        readers = [r for v in made.results for r in _readers(v)]
        if made.kind not in ("map", "reduce") or not readers or not all(isinstance(r, ops.Kernel) and r.kind in ALIKE for r in readers):
            continue
        found: list[tuple[Op, ops.Kernel]] = []
        for reader in dict.fromkeys(readers):
            joined = _joined(made, reader, made.results)
            if joined is None:
                break
            found.append((reader, joined))
        if len(found) < len(set(readers)):
            for reader, joined in reversed(found):
                for new, old in zip(joined.results, reader.results):
                    new.replace_all_uses_with(old)
                joined.operation.erase()
            continue
        for reader, _ in found:
            reader.operation.erase()
        made.operation.erase()


def _depends(value: ir.Value, on: ops.Kernel) -> bool:
    stack, seen = [value], {value}
    while stack:
        owner = stack.pop().owner
        if isinstance(owner, ir.Block):
            continue
        if owner == on.operation:
            return True
        stack += [v for v in owner.operands if v not in seen]
        seen.update(owner.operands)
    return False


def _joined(first: ops.Kernel, second: ops.Kernel, again: Sequence[ir.Value] = ()) -> ops.Kernel | None:
    """Two kernels as one, which takes over their uses; None where that is no kernel, or costs more than a launch. `again`: results of the first that
    the second alone is to have, for the first stays as long as others read it."""
    shown = [v for v in first.results if v not in again and any(r != second for r in _readers(v))]
    operands = list(dict.fromkeys([*first.operands, *(v for v in second.operands if v not in list(first.results))]))
    types = [type_of(v) for v in (*shown, *second.results)]
    with ir.InsertionPoint(second), fuse_locations([first.location, second.location]):
        joined = ops.Kernel.build(operands, types, "product", "product")
    block = joined.regions[0].blocks[0]
    inside = dict(zip(operands, block.arguments))
    with ir.InsertionPoint(block), first.location:
        made = dict(zip(first.results, clone_into(first.regions[0].blocks[0], [inside[v] for v in first.operands])))
    with ir.InsertionPoint(block), second.location:
        ends = clone_into(second.regions[0].blocks[0], [made[v] if v in made else inside[v] for v in second.operands])
        ops.Yield.of(*(made[v] for v in shown), *ends)
    if len(list(block.operations)) > MAX_OPS or not _pays(joined, [first] if again else []):
        joined.operation.erase()
        return None
    joined.attributes["role"] = ir.StringAttr.get(role_of("product", list(block.operations)[:-1]))
    for old, new in zip((*shown, *second.results), joined.results):
        old.replace_all_uses_with(new)
    return joined


def _pays(joined: ops.Kernel, again: Sequence[ops.Kernel]) -> bool:
    """Whether a kernel is one of products of few rows, whose blocks read no more for what they do `again` than a launch is worth."""
    body = Body.of(joined.regions[0].blocks[0])
    products = [op for op, _ in body.makers.values() if isinstance(op, ops.Contract)]
    if not products or not all(map(is_few, products)):
        return False
    try:
        rows = few_rows_of(body)
    except Unsuited:
        return False
    sizes = rows.nest.sizes
    sums, neighbours = prod(sizes[: rows.kept]), sizes[rows.kept - 1] if rows.kept else 1
    if prod(sizes[rows.kept :]) >= MOST_TERMS or any(type_of(p.operands[1 - row_side(p)]).dtype.bits < 16 for p in products):
        return False
    row_by_row = _lies_row_by_row(rows)
    if row_by_row and neighbours % 8:
        return False
    blocks = sums // LEAST_SUMS if not row_by_row else min(sums // LEAST_SUMS, max(sums // SUMS, BLOCKS))
    return blocks * sum(map(_row_bytes, again)) <= LAUNCH


def _lies_row_by_row(rows: FewRows) -> bool:
    """Whether neighbouring sums read neighbours of the matrices."""
    reads = survey(rows.trace, [f.node for f in rows.folds[0]]).reads
    return any(factor_of(r.address, rows.kept - 1) == 1 for r in reads)


def _row_bytes(kernel: ops.Kernel) -> int:
    """What it takes to make a row of a kernel's results."""
    made = sum(type_of(v).bytes for v in kernel.results)
    rows = max(prod(type_of(v).shape[:-1]) for v in kernel.results)
    return sum(min(type_of(v).bytes, made) for v in kernel.operands) // max(rows, 1)


# --- what runs beside each other


def _beside(block: ir.Block, olds: dict[ir.Value, ir.Value]) -> None:
    """Puts kernels that need nothing of each other behind each other, and marks all but the first. `olds`: next values of states, and the states."""
    groups: list[list[Op]] = []
    place: dict[ir.Operation, int] = {}
    *body, end = block.operations
    for op in body:
        first = _earliest(op, place, olds)
        k = next((k for k in range(first, len(groups)) if _runs_beside(op, groups[k], olds)), len(groups))
        if k == len(groups):
            groups.append([])
        groups[k].append(op)
        place[op.operation] = k
    for members in groups:
        for n, op in enumerate(members):
            op.operation.move_before(end.operation)
            if n:
                op.attributes[BESIDE] = ir.UnitAttr.get()


def _earliest(op: Op, place: dict[ir.Operation, int], olds: dict[ir.Value, ir.Value]) -> int:
    """The first group that an op may be in: behind what it reads, and behind the readers of what it may overwrite."""
    before = [place[v.owner] for v in op.operands if not isinstance(v.owner, ir.Block)]
    old = {olds[v] for v in op.results if v in olds}
    before += [place[r.operation] for v in old for r in _readers(v) if r.operation in place]
    return max(before, default=-1) + 1


def _runs_beside(op: Op, others: Sequence[Op], olds: dict[ir.Value, ir.Value]) -> bool:
    """Whether a kernel may run beside those of a group, and gains by it."""
    if len(others) == MOST_BESIDE or not all(isinstance(o, ops.Kernel) for o in (op, *others)):
        return False
    if any(olds[v] in list(o.operands) for a, b in ((op, others), *((o, [op]) for o in others)) for v in a.results if v in olds for o in b):
        return False
    return all(_alike(op, o) or max(_moved(op), _moved(o)) < LAUNCH for o in others)


def _alike(a: Op, b: Op) -> bool:
    return all(o.kind in ALIKE and all(is_few(p) for p in o.regions[0].blocks[0].operations if isinstance(p, ops.Contract)) for o in (a, b))


def _moved(kernel: Op) -> int:
    """The bytes that a kernel reads and writes; of what rows are gathered from, or put into, no more than is given."""
    block = kernel.regions[0].blocks[0]
    weights = {a: type_of(a).bytes for a in block.arguments}
    end = list(block.operations)[-1]
    written = {v: type_of(v).bytes for v in end.operands}
    for op in block.operations:
        if isinstance(op, ops.Put):
            weights[op.base] = 0
            written[op.results[0]] = type_of(op.row).bytes
        elif isinstance(op, ops.Gather) and op.x in weights:
            weights[op.x] = min(weights[op.x], type_of(op.results[0]).bytes)
    return sum(weights.values()) + sum(written.values())
