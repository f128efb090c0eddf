"""precision: which ops run in a 16-bit float, which products in tf32, and which weights lie in 8 bits.

Four rules (Micikevicius et al. 2018, and what PyTorch's autocast made of them), one table:

- products (contract, conv) take 16-bit operands; their sums are kept in float32 by every backend, and rounded once, when they are stored;
- ops that move values, or compute where rounding does no more harm than storing did, keep the type of what they read. Parameters and statistics that
  are spread over a tensor do not widen it; two tensors of full size do, so that a residual stream that began in float32 stays there;
- maxima and minima of windows pick what lies there in 16 bits, and go on in float32;
- all else runs in float32: exponentials, logarithms, roots, powers, sums, normalizations, losses. So do parameters (the masters), states, the
  optimizer and the program's inputs and results.

In tf32 all values are float32. Products of float32 carry the mark `tf32`, and so will the products of their gradients.

int8 is about weights alone: those of matrix products become 8-bit integers with a scale for each output channel (`quantize`), all else is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dslc.core.dtypes import BY_NAME, FLOAT32, INT8, TF32, DType
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.program import functions_of
from dslc.ir.types import spans_of, type_of

from .notes import note
from .prepare import Behind, behind_each, fixed_arguments
from .prune import remove_dead
from .quantize import quantized_product, weights_of

PRODUCTS = (ops.Contract, ops.Conv)
PICKS = ("max", "min")  # kinds of reductions that compute nothing
FOLLOWERS = (
    ops.View, ops.Reshape, ops.Gather, ops.Concat, ops.Select, ops.StopGradient, ops.Neg, ops.Abs, ops.Sign, ops.Add, ops.Sub, ops.Mul, ops.Div,
    ops.Min, ops.Max, ops.Tanh, ops.Sigmoid, ops.Erf,
)  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """Casts around products, and 16-bit types as far as the rules above carry them. `default` holds where no `with precision(...)` says otherwise.
    It runs before `train_step`, so the gradients follow the types of what they are gradients of.

    before: %y = contract %x, %w : f32      after: %x' = cast %x : bf16; %w' = cast %w : bf16; %y = contract %x', %w' : bf16
                                            or, in tf32: %y = contract %x, %w {tf32} : f32
    """

    default: str = "float32"

    def run(self, module: ir.Module) -> None:
        notes: list[str] = []
        for program in functions_of(module):
            _Walk(self.default, notes, behind_each(program.entry_block, fixed_arguments(program))).block(program.entry_block)
        note(module, "precision", notes)


@dataclass
class _Forms:
    """A float32 value as it is now: in float32, in 16 bits, or both. `follows`: the 16-bit type that goes on from here, if any."""

    wide: ir.Value | None
    narrow: ir.Value | None = None
    follows: DType | None = None


@dataclass
class _Walk:
    """One forward walk over a block. `behind`: what follows from parameters and fixed states alone."""

    default: str
    notes: list[str]
    behind: Behind = field(default_factory=dict)
    forms: dict[ir.Value, _Forms] = field(default_factory=dict)

    def block(self, block: ir.Block) -> None:
        for op in list(block.operations):
            with ir.InsertionPoint(op), op.location:
                self._op(op)
        remove_dead(block)

    # --- a value in one form or the other, made at the insertion point where it is not there

    def wide(self, value: ir.Value) -> ir.Value:
        forms = self.forms.get(value)
        if forms is None:
            return value
        if forms.wide is None:
            forms.wide = rounding(forms.narrow, FLOAT32)
        return forms.wide

    def narrow(self, value: ir.Value, dtype: DType) -> ir.Value:
        forms = self.forms.setdefault(value, _Forms(value))
        if forms.narrow is None:
            forms.narrow = self._narrowed(forms.wide, dtype)
        return rounding(forms.narrow, dtype)

    def _narrowed(self, value: ir.Value, dtype: DType) -> ir.Value:
        """What a view shows is cast before, where it is not more: contractions read through views, and a cast of a view would lay it out anew."""
        op = None if isinstance(value.owner, ir.Block) else value.owner.opview
        if isinstance(op, (ops.View, ops.Reshape)) and type_of(op.operands[0]).size <= type_of(value).size:
            return type(op).of(self.narrow(op.operands[0], dtype), **op.values())
        return rounding(value, dtype)

    # --- ops

    def _op(self, op: Op) -> None:
        name = self._precision(op)
        dtype = None if name in ("float32", TF32) else BY_NAME[name]
        floats = [v for v in op.operands if type_of(v).dtype == FLOAT32]
        if isinstance(op, ops.Grad):
            self._grad(op)
        elif dtype == INT8:
            self._in_int8(op)
        elif dtype is not None and isinstance(op, PRODUCTS) and len(floats) == 2 and op.type.dtype == FLOAT32:
            made = type(op).of(*[self.narrow(v, dtype) for v in floats], **{**op.values(), "dtype": dtype})
            self.forms[op.results[0]] = _Forms(None, made, dtype)
            self._tell(op, dtype, "a product, its sums are float32")
        elif dtype is not None and isinstance(op, ops.Reduce) and op.kind in PICKS and self._soft(op.x) and _is_view(op.x):
            self.forms[op.results[0]] = _Forms(None, ops.Reduce.of(self.narrow(op.x, dtype), **op.values()))
            self._tell(op, dtype, "it picks one of what it reads")
        elif dtype is not None and isinstance(op, FOLLOWERS) and op.type.dtype == FLOAT32 and self._follows(floats, op.type.size):
            self._follow(op, floats, dtype)
        else:
            self._plain(op)
            if name == TF32 and isinstance(op, PRODUCTS) and all(t.dtype == FLOAT32 for t in (*op.types(), op.type)):
                op.attributes["tf32"] = ir.UnitAttr.get()
                self._tell(op, TF32, "a product of float32, its factors are rounded to 10 bits, its sums are float32")
            for region in op.regions:
                _Walk(self.default, self.notes).block(region.blocks[0])

    def _precision(self, op: Op) -> str:
        """What the op is asked to run in."""
        name = self.default
        if PRECISION in op.attributes:
            name = ir.StringAttr(op.attributes[PRECISION]).value
            del op.attributes[PRECISION]
        return name

    def _follows(self, floats: Sequence[ir.Value], size: int) -> bool:
        """Whether an op goes on in 16 bits: one of its operands does, and the others are no tensors of the result's size."""
        followed = [v for v in floats if self._soft(v)]
        return bool(followed) and all(self._soft(v) or _is_spread(v, size) for v in floats)

    def _soft(self, value: ir.Value) -> DType | None:
        forms = self.forms.get(value)
        return forms.follows if forms else None

    def _follow(self, op: Op, floats: Sequence[ir.Value], dtype: DType) -> None:
        """In 16 bits where all operands lie there; in float32 else, and rounded where it is read more than once: it will be stored."""
        result = op.results[0]
        forms = [self.forms.get(v) for v in floats]
        if all(f and f.follows and f.narrow and type_of(f.narrow).dtype == dtype for f in forms):
            operands = [self.narrow(v, dtype) if v in self.forms else v for v in op.operands]
            self.forms[result] = _Forms(None, type(op).of(*operands, **op.values()), dtype)
            self._tell(op, dtype, "its operands are")
            return
        self._part(op, floats, dtype)
        self._widen(op)
        self.forms[result] = _Forms(result, None, dtype)
        if len(list(result.uses)) > 1:
            with ir.InsertionPoint.after(op):
                self.forms[result] = _Forms(None, rounding(result, dtype), dtype)
            self._tell(op, dtype, "computed in float32, rounded to be stored")

    def _part(self, op: Op, floats: Sequence[ir.Value], dtype: DType) -> None:
        """Of operands that follow from different products, in float32 so far, one alone can be made where its product is: the others are rounded."""
        whole = [v for v in floats if self._soft(v) and self.forms[v].narrow is None]
        for k, v in enumerate(whole[1:], 1):
            if all(not _rounded_under(v) & _rounded_under(u) for u in whole[:k]):
                self.forms[v] = _Forms(None, rounding(v, dtype), dtype)
                self._tell(op, dtype, "an operand of another product than the first is rounded to be stored")

    def _in_int8(self, op: Op) -> None:
        """A matrix product of 8-bit weights; other ops as they are."""
        self._plain(op)
        side = weights_of(op, self.behind) if isinstance(op, ops.Contract) else None
        if side is not None:
            op.results[0].replace_all_uses_with(quantized_product(op, list(op.operands), side))
            self._tell(op, INT8, "the weights of a matrix product, which is float32")
        for region in op.regions:
            _Walk(self.default, self.notes).block(region.blocks[0])

    def _plain(self, op: Op) -> None:
        """In float32."""
        if any(self._soft(v) for v in op.operands) and isinstance(op, Op) and op.results and type_of(op.results[0]).dtype == FLOAT32:
            self._tell(op, FLOAT32, "another operand is, of full size" if isinstance(op, FOLLOWERS) else "it would lose too much in 16 bits")
        self._widen(op)

    def _widen(self, op: Op) -> None:
        for k, v in enumerate(op.operands):
            if v in self.forms:
                op.operands[k] = self.wide(v)

    def _grad(self, op: ops.Grad) -> None:
        """With respect to values as they are now; the gradients go on in float32."""
        loss, *wrt = op.operands
        now = [self.forms[v].narrow if self._soft(v) and self.forms[v].narrow else self.wide(v) for v in wrt]
        made = ops.Grad.of(self.wide(loss), *now)
        for old, new in zip(op.results, made if isinstance(made, list) else [made]):
            self.forms[old] = _Forms(ops.cast(new, type_of(old).dtype))

    def _tell(self, op: Op, dtype: DType | str, why: str) -> None:
        spans = spans_of(op.location)
        line = f"line {spans[-1].line}: " if spans else ""
        self.notes.append(f"{line}{op.operation.name.removeprefix('nn.')} in {dtype}: {why}")


def rounding(value: ir.Value, dtype: DType) -> ir.Value:
    """A cast that is marked as this pass's; `value` itself where it has the type."""
    made = ops.cast(value, dtype)
    if made != value:
        made.owner.attributes[PRECISION] = ir.StringAttr.get(dtype.name)
    return made


def through_rounding(value: ir.Value) -> ir.Value:
    """What this pass rounded to make the value; the value itself where it did not."""
    while not isinstance(value.owner, ir.Block) and isinstance(value.owner.opview, ops.Cast) and PRECISION in value.owner.attributes:
        value = value.owner.operands[0]
    return value


def _rounded_under(value: ir.Value) -> set[ir.Value]:
    """The 16-bit values that an elementwise value in float32 is computed from."""
    if isinstance(value.owner, ir.Block):
        return set()
    op = value.owner.opview
    if isinstance(op, ops.Cast) and PRECISION in op.attributes:
        return {op.x}
    if not isinstance(op, Op) or op.structure not in ("elementwise", "view"):
        return set()
    return set().union(*(_rounded_under(v) for v in op.operands))


def _is_view(value: ir.Value) -> bool:
    return not isinstance(value.owner, ir.Block) and isinstance(value.owner.opview, ops.View)


def _is_spread(value: ir.Value, size: int) -> bool:
    """A value that is fewer numbers than `size`, seen through views, or none of the data: constants, random draws, masks."""
    if type_of(value).size < size or type_of(value).dtype != FLOAT32:
        return True
    if isinstance(value.owner, ir.Block):
        return False
    op = value.owner.opview
    return op.structure in ("elementwise", "generator", "view") and all(_is_spread(v, size) for v in op.operands)
