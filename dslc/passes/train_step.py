"""train_step: turns a program with a loss into a training step: gradients, accumulation, clipping, the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dslc.core.errors import TrainingError
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.program import Slot, add_argument, arguments_of, finish_program, program_of, results_of
from dslc.ir.types import TensorType, type_of


class Optimizer(Protocol):
    """Builds one parameter's update at the insertion point."""

    def update(self, program: func.FuncOp, path: str, w: ir.Value, g: ir.Value) -> tuple[ir.Value, list[tuple[Slot, ir.Value]]]:
        """(the new value, next values of the optimizer's states, whose arguments were added to the program)"""


@dataclass(frozen=True)
class TrainStep:
    """Adds to a program with a result `loss` the next values of the parameters in `trainable`.

    `clip_norm` scales all gradients so that their joint norm is at most that (Pascanu et al. 2013), and adds the metric `grad_norm`; `clip_value`
    cuts each element. With `accumulate` n > 1 there are two programs: the `accumulating` one adds its gradient to the states `PATH.grad`, the other
    adds the last one, divides by n, updates and clears them.

    before: f(x, w) -> (loss)            after: f(x, w, w.optimizer.m) -> (loss, next w, next w.optimizer.m)
    """

    trainable: tuple[str, ...]
    optimizer: Optimizer
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    accumulating: bool = False

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        results = [(slot, v) for slot, v in results_of(program) if slot.role in ("loss", "metric", "state")]
        loss = next((v for slot, v in results if slot.role == "loss"), None)
        if loss is None:
            raise TrainingError("the model has no loss", help="add one: loss mean((y - target) ** 2)")
        arguments = {s.name: v for s, v in zip(arguments_of(program), program.entry_block.arguments)}
        paths = [p for p in self.trainable if p in arguments]
        if not paths:
            raise TrainingError("nothing is trained: no parameter takes part in the loss")
        end = list(program.entry_block.operations)[-1]
        with ir.InsertionPoint(end), end.location:
            made = ops.Grad.of(loss, *[arguments[p] for p in paths])
            grads = made if isinstance(made, list) else [made]
            if self.accumulate > 1:
                grads, kept = self._accumulated(program, paths, grads)
                results += kept
            if not self.accumulating:
                grads, metrics = self._clipped(grads)
                results += metrics
                for path, g in zip(paths, grads):
                    new, states = self.optimizer.update(program, path, arguments[path], g)
                    results += [(Slot(path, "param", type_of(new)), new), *states]
        finish_program(program, results)

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
        norm = ops.Sqrt.of(_sum([_squares(g) for g in grads]))
        scale = ops.Div.of(ops.full_like(norm, self.clip_norm), ops.Add.of(norm, ops.full_like(norm, 1e-6)))
        scale = ops.Min.of(scale, ops.full_like(scale, 1))
        clipped = [ops.Mul.of(g, ops.spread(ops.cast(scale, type_of(g).dtype), type_of(g))) for g in grads]
        return clipped, [(Slot("grad_norm", "metric", TensorType(type_of(norm).dtype, ())), norm)]


def _squares(g: ir.Value) -> ir.Value:
    return ops.Reduce.of(ops.Mul.of(g, g), kind="sum", axes=list(range(type_of(g).rank)))


def _sum(values: Sequence[ir.Value]) -> ir.Value:
    total = values[0]
    for v in values[1:]:
        total = ops.Add.of(total, v)
    return total


def _between(g: ir.Value, limit: float) -> ir.Value:
    return ops.Max.of(ops.Min.of(g, ops.full_like(g, limit)), ops.full_like(g, -limit))
