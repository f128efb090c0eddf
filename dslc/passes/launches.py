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
from .kernel_rules import is_placement
from .regions import clone_into, sort

LAUNCH = 8 << 20  # bytes that go from the second cache to the multiprocessors while a kernel is started
MOST_TERMS = 1 << 14  # of a sum: longer ones are split
SUMS = 64  # neighbouring ones of a block where a matrix lies row by row, and the least number
LEAST_SUMS = 8
BLOCKS = 128  # that a device has at once: sums are given to fewer threads rather than to fewer blocks
MANY, SHORT = 1 << 15, 4 << 10  # sums of one row that a block has some hundred of, where the terms of one are not more bytes than this
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
                    second = joined


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
    """What makes the rows that products wait for, to be multiplied with: each product makes them again. What others read stays, and may run beside
    the products."""
    for made in reversed(_kernels(block)):
        readers = [r for r in dict.fromkeys(r for v in made.results for r in _readers(v)) if _waits_for(r, made)]
        if made.kind not in ("map", "reduce") or not readers:
            continue
        found: list[tuple[ops.Kernel, ops.Kernel]] = []
        for reader in readers:
            joined = _joined(made, reader, again=True)
            if joined is None:
                break
            found.append((reader, joined))
        joins = len(found) == len(readers)
        for reader, joined in reversed(found):
            old, new = (reader, joined) if joins else (joined, reader)
            for was, now in zip(old.results, new.results):
                was.replace_all_uses_with(now)
            old.operation.erase()
        if joins:
            _keep_read(made)


def _waits_for(reader: Op, made: ops.Kernel) -> bool:
    """Whether a product needs a kernel for its rows, and nothing else that comes later."""
    others = [v for v in reader.operands if v not in made.results]
    return not _factors_of(reader).isdisjoint(made.results) and not any(_depends(v, made) for v in others)


def _factors_of(kernel: Op) -> set[ir.Value]:
    """The operands that the rows are made of that products are multiplied with."""
    if not isinstance(kernel, ops.Kernel) or not _of_few_rows(kernel):
        return set()
    block = kernel.regions[0].blocks[0]
    stack = [op.operands[row_side(op)] for op in block.operations if isinstance(op, ops.Contract)]
    seen = set(stack)
    while stack:
        owner = stack.pop().owner
        more = set() if isinstance(owner, ir.Block) else set(owner.operands) - seen
        stack += more
        seen |= more
    return {v for a, v in zip(block.arguments, kernel.operands) if a in seen}


def _keep_read(kernel: ops.Kernel) -> None:
    """Takes the results away that nothing reads, with what makes them alone; or the kernel."""
    read = [k for k, v in enumerate(kernel.results) if list(v.uses)]
    if len(read) == len(list(kernel.results)):
        return
    if read:
        block = kernel.regions[0].blocks[0]
        ends = [list(block.operations)[-1].operands[k] for k in read]
        kept, inner = _cone(block, ends)
        kind = "reduce" if any(op.structure == "reduce" for op in kept) else "map"
        with ir.InsertionPoint(kernel), kernel.location:
            outer = [kernel.operands[v.arg_number] for v in inner]
            less = ops.Kernel.build(outer, [type_of(v) for v in ends], kind, role_of(kind, kept))
        swap: dict[ir.Value, ir.Value] = dict(zip(inner, less.regions[0].blocks[0].arguments))
        with ir.InsertionPoint(less.regions[0].blocks[0]), kernel.location:
            _clone(kept, swap)
            ops.Yield.of(*(swap[v] for v in ends))
        for k, v in zip(read, less.results):
            kernel.results[k].replace_all_uses_with(v)
    kernel.operation.erase()


def _cone(block: ir.Block, ends: Sequence[ir.Value]) -> tuple[list[Op], list[ir.BlockArgument]]:
    """The ops of a block that some of its values are made by, and the arguments that they read."""
    needed = set(ends)
    kept: list[Op] = []
    for op in reversed(list(block.operations)[:-1]):
        if not needed.isdisjoint(op.results):
            kept.append(op)
            needed.update(op.operands)
    return kept[::-1], [v for v in block.arguments if v in needed]


def _clone(body: Sequence[Op], swap: dict[ir.Value, ir.Value]) -> list[Op]:
    """Copies ops to the insertion point; `swap`: what to read instead of some values, and what is made in place of the ops' results."""
    out: list[Op] = []
    for op in body:
        copy = op.operation.clone()
        for k, operand in enumerate(op.operands):
            copy.operands[k] = swap[operand]
        swap.update(zip(op.results, copy.results))
        out.append(copy.opview)
    return out


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


def _joined(first: ops.Kernel, second: ops.Kernel, again: bool = False) -> ops.Kernel | None:
    """Two kernels as one, which takes over their uses; None where that is no kernel, or costs more than a launch. `again`: the first stays for those
    that read it besides."""
    shown = [k for k, v in enumerate(first.results) if not again and any(r != second for r in _readers(v))]
    wanted = [k for k, v in enumerate(first.results) if k in shown or v in second.operands]
    source = first.regions[0].blocks[0]
    ends = {k: list(source.operations)[-1].operands[k] for k in wanted}
    ahead, inner = _cone(source, list(ends.values()))
    others = [v for v in second.operands if v not in list(first.results)]
    operands = list(dict.fromkeys([*(first.operands[v.arg_number] for v in inner), *others]))
    types = [*(type_of(ends[k]) for k in shown), *map(type_of, second.results)]
    with ir.InsertionPoint(second), fuse_locations([first.location, second.location]):
        joined = ops.Kernel.build(operands, types, "product", "product")
    block = joined.regions[0].blocks[0]
    inside = dict(zip(operands, block.arguments))
    swap = {v: inside[first.operands[v.arg_number]] for v in inner}
    with ir.InsertionPoint(block), first.location:
        ahead = _clone(ahead, swap)
    inside |= {first.results[k]: swap[v] for k, v in ends.items()}
    with ir.InsertionPoint(block), second.location:
        last = clone_into(second.regions[0].blocks[0], [inside[v] for v in second.operands])
        ops.Yield.of(*(swap[ends[k]] for k in shown), *last)
    if len(list(block.operations)) > MAX_OPS or not _pays(joined, (first, ahead) if again else None):
        joined.operation.erase()
        return None
    joined.attributes["role"] = ir.StringAttr.get(role_of("product", list(block.operations)[:-1]))
    for old, new in zip((*(first.results[k] for k in shown), *second.results), joined.results):
        old.replace_all_uses_with(new)
    return joined


def _pays(joined: ops.Kernel, again: tuple[ops.Kernel, Sequence[Op]] | None) -> bool:
    """Whether a kernel is one of products of few rows, whose blocks read no more for what they do again than a launch is worth. `again`: the kernel
    that did it, and its ops in the joined one."""
    body = Body.of(joined.regions[0].blocks[0])
    products = [op for op, _ in body.makers.values() if isinstance(op, ops.Contract)]
    if not products or not all(map(is_few, products)):
        return False
    try:
        rows = few_rows_of(body)
    except Unsuited:
        return False
    made = {v for stage in rows.stages for v in stage.rows.body.makers}
    if again is not None and not all(is_placement(op) or made.issuperset(op.results) for op in again[1]):
        return False
    sizes = rows.nest.sizes
    sums, neighbours = prod(sizes[: rows.kept]), sizes[rows.kept - 1] if rows.kept else 1
    if prod(sizes[rows.kept :]) >= MOST_TERMS or any(type_of(p.operands[1 - row_side(p)]).dtype.bits < 16 for p in products):
        return False
    row_by_row = _lies_row_by_row(rows)
    if row_by_row and neighbours % 8:
        return False
    blocks = sums // LEAST_SUMS if not row_by_row else min(sums // LEAST_SUMS, max(sums // SUMS, BLOCKS))
    if not row_by_row and sums == neighbours and sums >= MANY and max(type_of(p.operands[1 - row_side(p)]).bytes for p in products) // sums <= SHORT:
        blocks = 4 * BLOCKS  # which stay for many sums
    return again is None or blocks * _row_bytes(again[0]) <= LAUNCH


def _lies_row_by_row(rows: FewRows) -> bool:
    """Whether neighbouring sums read neighbours of the matrices."""
    reads = survey(rows.trace, [f.node for f in rows.folds[0]]).reads
    return any(factor_of(r.address, rows.kept - 1) == 1 for r in reads)


def _row_bytes(kernel: ops.Kernel) -> int:
    """What it takes to read what a row of a kernel's results is made of."""
    rows = max(prod(type_of(v).shape[:-1]) for v in kernel.results)
    return sum(_read(kernel).values()) // max(rows, 1)


# --- what runs beside each other


def _beside(block: ir.Block, olds: dict[ir.Value, ir.Value]) -> None:
    """Puts kernels that need nothing of each other behind each other, and marks all but the first. `olds`: next values of states, and the states."""
    groups: list[list[Op]] = []
    place: dict[ir.Operation, int] = {}
    *body, end = block.operations
    for op in body:
        first = _earliest(op, place, olds)
        k = next((k for k in range(first, len(groups)) if _runs_beside(op, groups[k])), len(groups))
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


def _runs_beside(op: Op, others: Sequence[Op]) -> bool:
    """Whether a kernel may run beside those of a group, and gains by it."""
    if len(others) == MOST_BESIDE or not all(isinstance(o, ops.Kernel) for o in (op, *others)):
        return False
    return all(_suits(op, o) for o in others)


def _suits(a: Op, b: Op) -> bool:
    """Whether two kernels lose nothing in one launch: what is large is bound by memory, as products of few rows are, and needs no more threads."""
    few = [_of_few_rows(k) for k in (a, b)]
    large = [_moved(k) >= LAUNCH for k in (a, b)]
    return all(few) or not any(large) or (not all(large) and few[large.index(True)])


def _of_few_rows(kernel: Op) -> bool:
    """Whether a kernel is of products of few rows, which read memory and do little else."""
    return kernel.kind in ALIKE and all(is_few(op) for op in kernel.regions[0].blocks[0].operations if isinstance(op, ops.Contract))


def _moved(kernel: Op) -> int:
    """The bytes that a kernel reads and writes; of what it puts rows into those of the rows."""
    block = kernel.regions[0].blocks[0]
    written = {v: type_of(v).bytes for v in list(block.operations)[-1].operands}
    written |= {op.results[0]: type_of(op.row).bytes for op in block.operations if isinstance(op, ops.Put)}
    return sum(_read(kernel).values()) + sum(written.values())


def _read(kernel: Op) -> dict[ir.Value, int]:
    """The bytes that a kernel reads of each operand: of what it gathers from, those that it gathers; of what it puts rows into, none."""
    block = kernel.regions[0].blocks[0]
    bytes_of = {a: type_of(a).bytes for a in block.arguments}
    for op in block.operations:
        if isinstance(op, ops.Put):
            bytes_of[op.base] = 0
        elif isinstance(op, ops.Gather) and op.x in bytes_of:
            bytes_of[op.x] = min(bytes_of[op.x], type_of(op.results[0]).bytes)
    return bytes_of
