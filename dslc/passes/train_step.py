"""train_step: turns a program with a loss into a training step: gradients, accumulation, clipping, the optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dslc.core import dtypes
from dslc.core.errors import Span, TrainingError
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.program import Slot, add_argument, argument, arguments_of, finish_program, program_of, results_of
from dslc.ir.types import TensorType, location_of, type_of


class Optimizer(Protocol):
    """Builds one parameter's update at the insertion point."""

    def update(self, program: func.FuncOp, path: str, w: ir.Value, g: ir.Value) -> tuple[ir.Value, list[tuple[Slot, ir.Value]]]:
        """(the new value, next values of the optimizer's states, whose arguments were added to the program)"""


@dataclass(frozen=True)
class Line:
    """What one optimizer does in a step: the names of the losses it minimizes (empty: the total) and the paths of the parameters that it changes."""

    losses: tuple[str, ...]
    trainable: tuple[str, ...]
    optimizer: Optimizer


@dataclass(frozen=True)
class TrainStep:
    """Adds to a program with a result `loss` the next values of the parameters, line by line.

    A line's gradients are taken at the values that the lines before it left: what depends on those is computed once more, with the same draws.

    `clip_norm` scales all gradients so that their joint norm is at most that (Pascanu et al. 2013), and adds the metric `grad_norm`; `clip_value`
    cuts each element. With `accumulate` n > 1 there are two programs: the `accumulating` one adds its gradient to the states `PATH.grad`, the other
    adds the last one, divides by n, updates and clears them.

    With `scaled`, for float16, whose smallest number is 6e-8, the gradient is that of the loss times 2^k, divided by 2^k in float32 (Micikevicius et
    al. 2018). A step in which a gradient overflows changes nothing, takes 1 from k and is counted by the metric `skipped_steps`; k grows by 1 after
    GROWTH steps without one.

    before: f(x, w) -> (loss)            after: f(x, w, w.optimizer.m) -> (loss, next w, next w.optimizer.m)
    """

    lines: tuple[Line, ...]
    clip_norm: float | None = None
    clip_value: float | None = None
    clip_span: Span | None = None  # of the line that says so
    accumulate: int = 1
    accumulating: bool = False
    scaled: bool = False

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        results = [(slot, v) for slot, v in results_of(program) if slot.role in ("loss", "metric", "state", "param")]
        if not any(slot.role == "loss" for slot, _ in results):
            raise TrainingError("the model has no loss", help="add one: loss mean((y - target) ** 2)")
        arguments = {s.name: v for s, v in zip(arguments_of(program), program.entry_block.arguments)}
        if self.accumulate > 1 and len(self.lines) > 1:
            raise TrainingError("accumulate goes with one minimize line")
        *forward, end = list(program.entry_block.operations)
        values = dict(arguments)  # of the parameters, after the lines so far
        kept: list[tuple[Slot, ir.Value]] = []
        with ir.InsertionPoint(end), end.location:
            for number, line in enumerate(self.lines):
                renewed = {arguments[p]: v for p, v in values.items() if v is not arguments[p]}
                again = _again(forward, renewed) if number else {}
                losses = [again.get(v, v) for v in _losses(line, results)]
                kept += self._line(program, line, number, _sum(losses), values, kept)
        final = {slot.name: v for slot, v in kept if slot.role == "param"}
        kept = [(slot, v) for slot, v in kept if slot.role != "param" or final[slot.name] is v]
        finish_program(program, results + kept)

    def _line(
        self, program: func.FuncOp, line: Line, number: int, loss: ir.Value, values: dict[str, ir.Value], before: list
    ) -> list[tuple[Slot, ir.Value]]:
        """The results of one line; `values` get the parameters' new values."""
        paths = [p for p in line.trainable if p in values]
        if not paths:
            own = [slot.name for slot, _ in results_of(program) if slot.role == "param"]
            if own:
                raise TrainingError(f"nothing is trained: the model changes {', '.join(own[:3])}{', ...' * (len(own) > 3)} itself",
                                    help="where its own lines are the optimizer, the train block needs none")  # fmt: skip
            raise TrainingError("nothing is trained: no parameter takes part in the loss")
        scale = LossScale.of(program, f"loss_scale{'.' + str(number + 1) if number else ''}") if self.scaled else None
        made = ops.Grad.of(scale.times(loss) if scale else loss, *[values[p] for p in paths])
        grads = made if isinstance(made, list) else [made]
        kept: list[tuple[Slot, ir.Value]] = []
        if scale:
            grads = [scale.divided(g) for g in grads]
        if self.accumulate > 1:
            grads, kept = self._accumulated(program, paths, grads)
        if self.accumulating:
            return kept
        finite = _finite(grads) if scale else None
        with location_of(self.clip_span):
            grads, metrics = self._clipped(grads)
        kept += [] if any(slot.name == "grad_norm" for slot, _ in before) else metrics
        for path, g in zip(paths, grads):
            new, states = line.optimizer.update(program, path, values[path], g)
            if finite is not None:
                new = _where(finite, new, values[path])
                states = [(slot, _where(finite, v, argument(program, slot.name))) for slot, v in states]
            values[path] = ops.StopGradient.of(new) if len(self.lines) > 1 else new  # later lines do not look through this update
            kept += [(Slot(path, "param", type_of(new)), new), *states]
        return kept + (scale.results(finite) if scale and finite is not None else [])

    def _accumulated(self, program: func.FuncOp, paths: Sequence[str], grads: Sequence[ir.Value]) -> tuple[list[ir.Value], list]:
        out, kept = [], []
        for path, g in zip(paths, grads):
            slot = Slot(f"{path}.grad", "state", type_of(g))
            total = ops.Add.of(add_argument(program, slot), ops.Mul.of(g, ops.full_like(g, 1 / self.accumulate)))
            kept.append((slot, total if self.accumulating else ops.zeros(type_of(g))))
            out.append(total)
        return out, kept

    def _clipped(self, grads: Sequence[ir.Value]) -> tuple[list[ir.Value], list]:
        if self.clip_value is not None:
            return [_between(g, self.clip_value) for g in grads], []
        if self.clip_norm is None:
            return list(grads), []
        wide = dtypes.FLOAT64 if any(type_of(g).dtype == dtypes.FLOAT64 for g in grads) else dtypes.FLOAT32
        norm = ops.Sqrt.of(_sum([_squares(ops.cast(g, wide)) for g in grads]))
        scale = ops.Div.of(ops.full_like(norm, self.clip_norm), ops.Add.of(norm, ops.full_like(norm, 1e-6)))
        scale = ops.Min.of(scale, ops.full_like(scale, 1))
        clipped = [ops.Mul.of(g, ops.spread(ops.cast(scale, type_of(g).dtype), type_of(g))) for g in grads]
        return clipped, [(Slot("grad_norm", "metric", TensorType(type_of(norm).dtype, ())), norm)]


GROWTH = 2000  # steps without overflow after which the loss is scaled by twice as much
START = 16  # the loss is scaled by 2^16 at first


@dataclass(frozen=True)
class LossScale:
    """A loss's factor 2^(16 + shift). Its states are float32[] and start at 0: `NAME.shift`, `NAME.good` (steps since it changed), `NAME.skipped`."""

    name: str
    shift: ir.Value
    good: ir.Value
    skipped: ir.Value

    @staticmethod
    def of(program: func.FuncOp, name: str) -> LossScale:
        t = TensorType(dtypes.FLOAT32, ())
        return LossScale(name, *[add_argument(program, Slot(f"{name}.{part}", "state", t)) for part in ("shift", "good", "skipped")])

    def _power(self, sign: int) -> ir.Value:
        k = ops.Add.of(self.shift, ops.full_like(self.shift, START))
        return ops.Exp.of(ops.Mul.of(k, ops.full_like(k, sign * math.log(2))))

    def times(self, loss: ir.Value) -> ir.Value:
        return ops.Mul.of(loss, ops.cast(self._power(1), type_of(loss).dtype))

    def divided(self, g: ir.Value) -> ir.Value:
        return ops.Mul.of(g, ops.spread(ops.cast(self._power(-1), type_of(g).dtype), type_of(g)))

    def results(self, finite: ir.Value) -> list[tuple[Slot, ir.Value]]:
        """The next states, and the metric."""

        def number(value: float) -> ir.Value:
            return ops.full_like(self.shift, value)

        good = ops.Add.of(self.good, number(1))
        grown = ops.Compare.of(good, number(GROWTH), predicate="ge")
        shift = ops.Add.of(self.shift, ops.Select.of(finite, ops.Select.of(grown, number(1), number(0)), number(-1)))
        kept = ops.And.of(finite, ops.Not.of(grown))
        skipped = ops.Add.of(self.skipped, ops.Select.of(finite, number(0), number(1)))
        nexts = {"shift": shift, "good": ops.Select.of(kept, good, number(0)), "skipped": skipped}
        states = [(Slot(f"{self.name}.{part}", "state", type_of(v)), v) for part, v in nexts.items()]
        metric = self.name.replace("loss_scale", "skipped_steps")  # a line's own, as its scale is
        return [*states, (Slot(metric, "metric", type_of(skipped)), skipped)]


def _finite(grads: Sequence[ir.Value]) -> ir.Value:
    """Whether no gradient has an infinity or a NaN: 0 times either is NaN."""
    zero = _sum([ops.Reduce.of(ops.Mul.of(ops.cast(g, dtypes.FLOAT32), ops.zeros(type_of(g).with_dtype(dtypes.FLOAT32))), kind="sum",
                               axes=range(type_of(g).rank)) for g in grads])  # fmt: skip
    return ops.Compare.of(zero, ops.full_like(zero, 0), predicate="eq")


def _where(condition: ir.Value, new: ir.Value, old: ir.Value) -> ir.Value:
    t = type_of(new)
    return ops.Select.of(ops.spread(condition, t.with_dtype(dtypes.BOOL)), new, old)


def _losses(line: Line, results: Sequence[tuple[Slot, ir.Value]]) -> list[ir.Value]:
    """The values of the losses that a line minimizes."""
    if not line.losses:
        return [v for slot, v in results if slot.role == "loss"]
    named = {slot.name: v for slot, v in results}
    return [named[name] for name in line.losses]


def _again(forward: Sequence[ir.Operation], renewed: dict[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
    """Copies, at the insertion point, of the ops that depend on renewed values: the new value of each that changes."""
    swap = dict(renewed)
    for op in forward:
        if any(v in swap for v in op.operands):
            copy = op.operation.clone()
            for k, operand in enumerate(copy.operands):
                if operand in swap:
                    copy.operands[k] = swap[operand]
            swap.update(zip(op.results, copy.results))
    return swap


def _squares(g: ir.Value) -> ir.Value:
    return ops.Reduce.of(ops.Mul.of(g, g), kind="sum", axes=list(range(type_of(g).rank)))


def _sum(values: Sequence[ir.Value]) -> ir.Value:
    total = values[0]
    for v in values[1:]:
        total = ops.Add.of(total, v)
    return total


def _between(g: ir.Value, limit: float) -> ir.Value:
    return ops.Max.of(ops.Min.of(g, ops.full_like(g, limit)), ops.full_like(g, -limit))
