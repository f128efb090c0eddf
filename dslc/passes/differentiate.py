"""differentiate: expands `nn.grad` by reverse mode over the op table's gradient rules; scans and conds included."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from dslc.core.errors import UnsupportedOp
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.program import functions_of
from dslc.ir.types import TensorType, spans_of, type_of

from .regions import clone_into, values_used

KEPT_SUMS = 64  # terms of a product from which on a scan's backward turns read it rather than make it again


@dataclass(frozen=True)
class Differentiate:
    """Replaces each `nn.grad` by what computes it, the inner ones of nested gradients first. Gradient ops carry the place of their forward op.

    before: %g = nn.grad(%loss, %w)      after: the gradient ops of everything between %w and %loss
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            _expand_block(program.entry_block)


def _expand_block(block: ir.Block) -> None:
    for op in list(block.operations):
        if isinstance(op, (ops.Scan, ops.Cond)):
            for region in op.regions:
                _expand_block(region.blocks[0])
        if isinstance(op, ops.Grad):
            with ir.InsertionPoint(op), op.location:
                wrt = list(op.operands)[1:]
                grads = gradients(block, [(op.operands[0], ops.full(type_of(op.operands[0]), 1))], wrt, before=op)
                for result, grad, x in zip(op.results, grads, wrt):
                    result.replace_all_uses_with(grad if grad is not None else ops.zeros(type_of(x)))
            op.operation.erase()


def gradients(
    block: ir.Block, seeds: Sequence[tuple[ir.Value, ir.Value]], wrt: Sequence[ir.Value], before: Op | None = None
) -> list[ir.Value | None]:
    """The gradients of `wrt`, given those of some values (`seeds`) of the same block; None is zero. Ops are made at the insertion point."""
    reached = _forward_slice(block, wrt, before)
    total: dict[ir.Value, ir.Value] = {}
    for value, grad in seeds:
        _add(total, value, grad)
    order = [op for op in block.operations if isinstance(op, Op)]
    if before is not None:
        order = order[: next(k for k, op in enumerate(order) if op.operation == before.operation)]
    for op in reversed(order):
        if not any(v in reached for v in op.operands) or not any(r in total for r in op.results):
            continue
        grads = [total.get(r) for r in op.results]
        with op.location:
            for operand, grad in zip(op.operands, _op_gradient(op, grads, reached)):
                if grad is not None and operand in reached and type_of(operand).dtype.is_float:
                    _add(total, operand, grad)
    return [total.get(x) for x in wrt]


def _forward_slice(block: ir.Block, wrt: Iterable[ir.Value], before: Op | None) -> set[ir.Value]:
    """All values that depend on `wrt`."""
    reached = set(wrt)
    for op in block.operations:
        if before is not None and op.operation == before.operation:
            break
        if not isinstance(op, ops.StopGradient) and any(v in reached for v in op.operands):
            reached.update(op.results)
    return reached


def _add(total: dict[ir.Value, ir.Value], value: ir.Value, grad: ir.Value) -> None:
    total[value] = ops.Add.of(total[value], grad) if value in total else grad


def _op_gradient(op: Op, grads: list[ir.Value | None], reached: set[ir.Value]) -> Sequence[ir.Value | None]:
    match op:
        case ops.Scan():
            return scan_gradient(op, grads, reached)
        case ops.Cond():
            return cond_gradient(op, grads)
        case ops.Kernel() | ops.Grad():
            raise UnsupportedOp(f"{op.operation.name} has no gradient", spans_of(op.location))
    return op.gradient(*grads)


# --- cond --------------------------------------------------------------------------------------------------------------------------------


def cond_gradient(op: ops.Cond, grads: list[ir.Value | None]) -> list[ir.Value | None]:
    """The gradient of a cond is a cond over the same condition: each branch runs forward again, then back."""
    operands = list(op.operands)[1:]
    float_places = [k for k, v in enumerate(operands) if type_of(v).dtype.is_float]
    given = [(k, g) for k, g in enumerate(grads) if g is not None]
    made = ops.Cond.build(op.operands[0], [*operands, *(g for _, g in given)], [type_of(operands[k]) for k in float_places])
    for region, source in zip(made.regions, op.regions):
        block = region.blocks[0]
        arguments = list(block.arguments)
        inner, inner_grads = arguments[: len(operands)], arguments[len(operands) :]
        with ir.InsertionPoint(block):
            yielded = clone_into(source.blocks[0], inner)
            seeds = [(yielded[k], g) for (k, _), g in zip(given, inner_grads)]
            found = gradients(block, seeds, [inner[k] for k in float_places])
            ops.Yield.of(*[g if g is not None else ops.zeros(type_of(inner[k])) for k, g in zip(float_places, found)])
    out: list[ir.Value | None] = [None] * (1 + len(operands))
    for k, result in zip(float_places, made.results):
        out[1 + k] = result
    return out


# --- scan --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """Operands and body arguments of a scan, by role."""

    constants: list[ir.Value]
    carries: list[ir.Value]
    slices: list[ir.Value]


def _parts(op: ops.Scan, values: Sequence[ir.Value]) -> _Parts:
    c, k = op.constants, op.carries
    return _Parts(list(values[:c]), list(values[c : c + k]), list(values[c + k :]))


def scan_gradient(op: ops.Scan, grads: list[ir.Value | None], reached: set[ir.Value]) -> list[ir.Value | None]:
    """A scan in the other direction: each turn runs the body again from that turn's carries, then back. A forward scan keeps the carries, and those
    products that are costlier to make again than to read.

    Gradients of constants are not summed turn by turn where they are contractions: the two factors are emitted, and one contraction over turns
    follows (`_constant_gradients`).
    """
    operands = _parts(op, list(op.operands))
    carried_floats = [k for k, v in enumerate(operands.carries) if type_of(v).dtype.is_float]
    emit_types = [type_of(v) for v in list(op.results)[op.carries :]]
    emit_grads = [(k, grads[op.carries + k]) for k in range(len(emit_types)) if grads[op.carries + k] is not None]
    start = [grads[k] if grads[k] is not None else ops.zeros(type_of(operands.carries[k])) for k in carried_floats]
    wanted = [v for v in (*operands.constants, *operands.slices) if v in reached and type_of(v).dtype.is_float]
    draft, products = _backward_body(op, operands, carried_floats, emit_grads, wanted)
    stacked = [*_emitting(op, products), *operands.slices, *(g for _, g in emit_grads)]
    scan = ops.Scan.build(operands.constants, start + draft.sums(), stacked, draft.emit_types(), op.trip, backward=not op.backward)
    return draft.finish(scan, op, operands, carried_floats)


def _costly(block: ir.Block) -> list[Op]:
    """The products of a turn with sums so long that their results are better kept."""
    found = [op for op in block.operations if isinstance(op, (ops.Contract, ops.Conv)) and op.type.dtype.is_float]
    return [op for op in found if math.prod(op.maps().domain) >= KEPT_SUMS * max(op.type.size, 1)]


def _emitting(op: ops.Scan, products: Sequence[int]) -> list[ir.Value]:
    """The carries at the start of each turn and some of its costly products, stacked: the scan is replaced by one that emits them too."""
    block = op.regions[0].blocks[0]
    carries = list(block.arguments)[1 + op.constants : 1 + op.constants + op.carries]
    kept = [type_of(v) for v in carries] + [_costly(block)[k].type for k in products]
    if not kept:
        return []
    emitted = [type_of(v).with_shape(type_of(v).shape[1:]) for v in list(op.results)[op.carries :]]
    parts = _parts(op, list(op.operands))
    with ir.InsertionPoint(op), op.location:
        wider = ops.Scan.build(parts.constants, parts.carries, parts.slices, [*emitted, *kept], op.trip, op.backward)
        inner = wider.regions[0].blocks[0]
        with ir.InsertionPoint(inner):
            arguments = list(inner.arguments)
            yielded = clone_into(block, arguments)
            made = [_costly(inner)[k].results[0] for k in products]
            ops.Yield.of(*yielded, *arguments[1 + op.constants : 1 + op.constants + op.carries], *made)
    results = list(wider.results)
    # the old scan stays for its gradient's bookkeeping; its uses move to the new one, and dead code removal takes it
    for old, new in zip(op.results, results):
        old.replace_all_uses_with(new)
    return results[len(op.results) :]


@dataclass
class _Product:
    """A gradient of a constant that is a contraction of two values of the turn: they are emitted, and contracted over all turns at once."""

    place: int  # of the constant among the operands
    a: ir.Value
    b: ir.Value
    attributes: dict


class _Backward:
    """The body of the backward scan while it is made, in a draft block."""

    def __init__(self) -> None:
        self.draft: ir.Operation
        self.block: ir.Block
        self.next_carries: list[ir.Value] = []
        self.sum_places: list[int] = []  # constants whose gradient is summed in a carry
        self.sum_values: list[ir.Value] = []
        self.sum_types: list[TensorType] = []
        self.products: list[_Product] = []
        self.slice_grads: list[tuple[int, ir.Value]] = []

    def sums(self) -> list[ir.Value]:
        return [ops.zeros(t) for t in self.sum_types]

    def emitted(self) -> list[ir.Value]:
        return [v for p in self.products for v in (p.a, p.b)] + [g for _, g in self.slice_grads]

    def emit_types(self) -> list[TensorType]:
        return [type_of(v) for v in self.emitted()]

    def read(self, instead: Mapping[ir.Value, ir.Value]) -> None:
        """Puts other values in the place of some."""
        for old, new in instead.items():
            old.replace_all_uses_with(new)
        self.next_carries = [instead.get(v, v) for v in self.next_carries]
        self.sum_values = [instead.get(v, v) for v in self.sum_values]
        self.products = [replace(p, a=instead.get(p.a, p.a), b=instead.get(p.b, p.b)) for p in self.products]
        self.slice_grads = [(k, instead.get(v, v)) for k, v in self.slice_grads]

    def finish(self, scan: ops.Scan, op: ops.Scan, operands: _Parts, carried_floats: list[int]) -> list[ir.Value | None]:
        """Moves the draft's ops into the scan and reads the gradients off its results."""
        inner = scan.regions[0].blocks[0]
        arguments = list(inner.arguments)
        c, k = len(operands.constants), len(carried_floats)
        sums = arguments[1 + c + k : 1 + c + k + len(self.sum_types)]
        old = list(self.block.arguments)
        new = [*arguments[: 1 + c + k], *arguments[1 + c + k + len(self.sum_types) :]]
        swap = dict(zip(old, new))
        for inner_op in list(self.block.operations):
            inner_op.operation.detach_from_parent()
            inner.append(inner_op.operation)
            for i, operand in enumerate(inner_op.operands):
                if operand in swap:
                    inner_op.operands[i] = swap[operand]
        with ir.InsertionPoint(inner):
            totals = [ops.Add.of(s, swap.get(v, v)) for s, v in zip(sums, self.sum_values)]
            ops.Yield.of(*[swap.get(v, v) for v in self.next_carries], *totals, *[swap.get(v, v) for v in self.emitted()])
        self.draft.erase()
        results = list(scan.results)
        out: list[ir.Value | None] = [None] * len(op.operands)
        for place, result in zip(carried_floats, results):
            out[c + place] = result
        for place, result in zip(self.sum_places, results[k:]):
            out[place] = result
        stacks = results[k + len(self.sum_types) :]
        for n, product in enumerate(self.products):
            grad = _contract_turns(stacks[2 * n], stacks[2 * n + 1], product)
            out[product.place] = grad if out[product.place] is None else ops.Add.of(out[product.place], grad)
        for (place, _), stack in zip(self.slice_grads, stacks[2 * len(self.products) :]):
            out[c + op.carries + place] = stack
        return out


def _contract_turns(a: ir.Value, b: ir.Value, product: _Product) -> ir.Value:
    """The sum over turns of a contraction, as one contraction with the turn as one more summed index."""
    lhs, rhs, out, dtype, tf32 = (product.attributes[k] for k in ("lhs", "rhs", "out", "dtype", "tf32"))
    turn = max([*lhs, *rhs], default=0) + 1
    return ops.contract(a, b, [turn, *lhs], [turn, *rhs], out, dtype, tf32)


def _backward_body(
    op: ops.Scan, operands: _Parts, carried_floats: list[int], emit_grads: Sequence[tuple[int, ir.Value]], wanted: Sequence[ir.Value]
) -> tuple[_Backward, list[int]]:
    """The turn's body run forward again, then back, in a draft block with arguments (turn, constants, carry gradients, carries, products, slices,
    gradients of what is emitted); and which of its costly products are read."""
    back = _Backward()
    source = op.regions[0].blocks[0]
    c, k = len(operands.constants), len(operands.carries)
    products = [one.type for one in _costly(source)]
    parts = (
        [type_of(source.arguments[0])],
        [type_of(v) for v in operands.constants],
        [type_of(operands.carries[i]) for i in carried_floats],
        [type_of(v) for v in operands.carries],
        products,
        [type_of(v).with_shape(type_of(v).shape[1:]) for v in operands.slices],
        [type_of(g).with_shape(type_of(g).shape[1:]) for _, g in emit_grads],
    )
    types = [t for part in parts for t in part]
    back.draft = ir.Operation.create("nn.draft", regions=1)
    back.block = back.draft.regions[0].blocks.append(*[t.to_mlir() for t in types], arg_locs=[ir.Location.unknown()] * len(types))
    arguments = iter(back.block.arguments)
    (turn,), constants, carry_grads, kept, given, own_slices, own_grads = (list(islice(arguments, len(part))) for part in parts)
    with ir.InsertionPoint(back.block):
        yielded = clone_into(source, [turn, *constants, *kept, *own_slices])
        again = _costly(back.block)
        seeds = [(yielded[i], g) for i, g in zip(carried_floats, carry_grads)] + [(yielded[k + i], g) for (i, _), g in zip(emit_grads, own_grads)]
        wanted_constants = [i for i, v in enumerate(operands.constants) if v in wanted]
        wanted_slices = [i for i, v in enumerate(operands.slices) if v in wanted]
        targets = [constants[i] for i in wanted_constants] + [kept[i] for i in carried_floats] + [own_slices[i] for i in wanted_slices]
        found = gradients(back.block, seeds, targets)
    found_constants = found[: len(wanted_constants)]
    found_carries = found[len(wanted_constants) : len(wanted_constants) + len(carried_floats)]
    found_slices = found[len(wanted_constants) + len(carried_floats) :]
    with ir.InsertionPoint(back.block):
        back.next_carries = [g if g is not None else ops.zeros(type_of(kept[i])) for g, i in zip(found_carries, carried_floats)]
        back.slice_grads = [(i, g) for i, g in zip(wanted_slices, found_slices) if g is not None]
    for i, grad in zip(wanted_constants, found_constants):
        if grad is not None:
            _split_sum(back, i, grad)
    return back, _read_instead(back, [one.results[0] for one in again], given, 1 + c + len(carried_floats) + k)


def _read_instead(back: _Backward, made: Sequence[ir.Value], given: Sequence[ir.Value], first: int) -> list[int]:
    """Puts arguments of the draft, from number `first` on, where it reads these values; drops those that nothing needs. The numbers of the others."""
    needed: set[ir.Value] = set()
    stack = [*back.next_carries, *back.sum_values, *back.emitted()]
    while stack:
        value = stack.pop()
        if value in needed:
            continue
        needed.add(value)
        if value not in made and not isinstance(value.owner, ir.Block):
            stack += value.owner.operands
    out = [k for k, value in enumerate(made) if value in needed]
    back.read({made[k]: given[k] for k in out})
    for k in reversed(range(len(made))):
        if k not in out:
            back.block.erase_argument(first + k)
    return out


def _split_sum(back: _Backward, place: int, grad: ir.Value) -> None:
    """The gradient of a constant: its terms that are contractions are emitted as factors, the rest is summed in a carry."""
    rest: list[ir.Value] = []
    for term in _terms(grad):
        owner = term.owner.opview if not isinstance(term.owner, ir.Block) else None
        if isinstance(owner, ops.Contract):
            back.products.append(_Product(place, owner.operands[0], owner.operands[1], owner.values()))
        else:
            rest.append(term)
    if rest:
        with ir.InsertionPoint(back.block):
            total = rest[0]
            for term in rest[1:]:
                total = ops.Add.of(total, term)
        back.sum_places.append(place)
        back.sum_values.append(total)
        back.sum_types.append(type_of(grad))


def _terms(value: ir.Value) -> list[ir.Value]:
    """The terms of a sum."""
    owner = value.owner.opview if not isinstance(value.owner, ir.Block) else None
    if isinstance(owner, ops.Add):
        return _terms(owner.operands[0]) + _terms(owner.operands[1])
    return [value]


__all__ = ["Differentiate", "gradients", "values_used"]
