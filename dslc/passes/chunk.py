"""chunk: products too large to lie in memory, as the logits of a language model, are made and used up for some of their tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import Any

from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.program import program_of
from dslc.ir.rows import Unsuited
from dslc.ir.types import type_of

from .attention import is_parameter
from .checkpoint import size_text
from .chunked import Loss, rewrite
from .fuse import Fuse
from .narrow import narrow
from .notes import note
from .prune import remove_dead
from .recompute import Recompute
from .regions import sort
from .rematerialize import Choice
from .searched import Scans, Searched
from .tile_space import line_of
from .timeline import Timeline

LARGE = 64 << 20  # bytes of a product that is made in chunks without a budget too
TOKENS = 256  # of a turn without a budget: below, reading the weights in each turn costs more than the cache saves (measured)
FEWEST = 4  # turns without a budget: where fewer would do, the product is not much larger than the gradient of the weights, which a loop must hold
FEW, SMALL = 128, 4 << 20  # tokens of a turn with weights of more bytes than this: fewer leave the products waiting for the weights
SHARE = 8  # of the gradient of the weights, which is there anyway: a turn's product of an eighth of it saves nothing more


@dataclass(frozen=True)
class Chunk:
    """Where a product with a softmax behind it is larger than what it is made of, and all that is made of it belongs to single tokens or is a sum
    over them, a loop over the tokens holds it, its softmax and its gradients. Nothing is computed twice: the loss is a sum over tokens, so that a
    turn makes both the losses of its tokens and their gradients, and adds to the gradient of the weights. The losses are the same to the bit; that
    gradient is added up in another order, in float32, and agrees within rounding. (Chunks of the vocabulary would make the product twice: the
    gradients need the softmax's sum.)

    A turn reads the weights and their gradient once more. `freely`: whether the target loses no time by that, so that large products are made in
    chunks without a budget too, of so many tokens that the product is no larger than the weights. Under a `budget` the number of tokens is the one
    that costs least by the cost model, with what `Checkpoint` has to run again. `aside` and `searched`: as of `Checkpoint`.

    before: %l = contract %h, %w; ...; %dl = ...; %dh = contract %dl, %w; %dw = contract %dl, %h
    after:  %dw, %dh = scan (carry %dw) over chunks of %h { %l = contract %h, %w; ...; %dw + contract %dl, %h }
    """

    budget: int | None = None
    aside: int = 0
    freely: bool = False
    searched: Searched = field(default_factory=Searched)

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        notes: list[str] = []
        if not _largest(program.entry_block):
            return
        numbers = self._numbers(program, notes)
        turns = numbers[0]
        if self.budget is not None and len(numbers) > 1:
            self.searched.turns[self.searched.scans] = numbers
            turns, _, _ = self.planned(self.searched.scans, lambda: program)
        told = [chunk(program.entry_block, turns)] if turns > 1 else []
        note(module, "chunk", [*(line for lines in told for line in lines), *notes])

    def planned(self, scans: Scans, program: Callable[[], func.FuncOp]) -> tuple[int, Timeline, Choice | None]:
        """The number of turns that takes least time within the budget, of a program with these schedules of scans, and its plan (`cheapest`). It is
        looked for from the one before on, where there was one."""
        assert self.budget is not None
        known, budget = self.searched, self.budget - self.aside
        if scans not in known.turns:
            known.turns[scans] = self._numbers(program(), [])
        numbers = known.turns[scans]

        def line(turns: int) -> Timeline:
            return known.line(scans, turns, lambda: timeline(program(), turns))

        if known.chosen in numbers:
            found = descended(numbers, numbers.index(known.chosen), line, budget, known)
        else:
            found = cheapest(((turns, line(turns)) for turns in numbers), budget, known)
        known.chosen = found[0]
        return found

    def _numbers(self, program: func.FuncOp, notes: list[str]) -> list[int]:
        """Numbers of turns that are worth a trial; the first one is for a program without a budget."""
        if not _largest(program.entry_block):
            return [1]
        trial = _copy(program)
        narrow(program_of(trial).entry_block)
        found = losses(program_of(trial).entry_block, notes)
        if not found:
            return [1]
        numbers = list(choices(found))
        large = self.freely and any(loss.root.type.bytes >= LARGE for loss in found)
        first = next((k for k, turns in enumerate(numbers) if _is_modest(found, turns)), 0) if large else 0
        return numbers[first if numbers[first] >= FEWEST else 0 :]


def cheapest(lines: Iterable[tuple[int, Timeline]], budget: int, searched: Searched) -> tuple[int, Timeline, Choice | None]:
    """The number of turns, of those given with their timelines, that takes least time within a budget, with its plan; where none fits, the one that
    comes nearest."""
    best: tuple[int, Timeline, Choice] | None = None
    tight: list[tuple[int, Timeline]] = []
    for turns, line in lines:
        if best is not None and line.seconds >= best[1].seconds + best[2].extra:
            continue
        plan = searched.choose(line, budget - line.slots)
        if plan is None:
            tight.append((turns, line))
            continue
        if best is None or line.seconds + plan.extra < best[1].seconds + best[2].extra:
            best = turns, line, plan
        if plan.extra == 0:  # more turns only read the weights more often
            break
    if best is not None:
        return best
    return (*min(tight[-2:], key=lambda tried: searched.least(tried[1])[1].total), None)


def descended(
    numbers: Sequence[int], at: int, line: Callable[[int], Timeline], budget: int, searched: Searched
) -> tuple[int, Timeline, Choice | None]:
    """As `cheapest`, from one of the numbers on to the next one as long as that takes less time, or holds less where nothing fits."""

    @cache
    def tried(k: int) -> tuple[Timeline, Choice | None]:
        made = line(numbers[k])
        return made, searched.choose(made, budget - made.slots)

    def rank(k: int) -> tuple[float, int]:
        made, choice = tried(k)
        return (made.seconds + choice.extra, 0) if choice is not None else (inf, -k)

    while True:
        choice = tried(at)[1]
        more = [] if choice is not None and choice.extra == 0 else [at + 1]
        better = next((k for k in (*more, at - 1) if 0 <= k < len(numbers) and rank(k) < rank(at)), None)
        if better is None:
            return numbers[at], *tried(at)
        at = better


def choices(found: Sequence[Loss]) -> Iterator[int]:
    """Numbers of turns to choose from; 1 is the program as it is."""
    turns = 1
    while True:
        yield turns
        turns *= 2
        if all(_tokens(loss) // turns < _least_tokens(loss) for loss in found):
            return


def _is_modest(found: Sequence[Loss], turns: int) -> bool:
    """Whether the product of a turn is no larger than the weights, or has as few tokens as lose no time."""
    return all(_tokens(loss) // turns <= max(TOKENS, _weights(loss)) for loss in found)


def _least_tokens(loss: Loss) -> int:
    return max(1, _weights(loss) // SHARE, FEW if type_of(loss.root.operands[1 - loss.side]).bytes > SMALL else 1)


def _tokens(loss: Loss) -> int:
    return loss.numbered.points


def _weights(loss: Loss) -> int:
    """The number of tokens that makes the product as large as its other operand."""
    return max(1, type_of(loss.root.operands[1 - loss.side]).size * _tokens(loss) // loss.root.type.size)


def timeline(program: func.FuncOp, turns: int) -> Timeline:
    """What a budget's plan has to deal with where the loops have so many turns."""
    trial = _copy(program)
    chunk(program_of(trial).entry_block, turns)
    Recompute().run(trial)
    Fuse().run(trial)
    return Timeline.of(program_of(trial))


def _copy(program: func.FuncOp) -> ir.Module:
    module = ir.Module.create(program.location)
    with ir.InsertionPoint(module.body):
        program.operation.clone()
    return module


def chunk(block: ir.Block, turns: int) -> list[str]:
    """Puts the products of a block into loops of about so many turns; tells of each."""
    told: list[str] = []
    if turns == 1:
        return told
    narrow(block)
    for _ in losses(block, []):
        loss = next(iter(losses(block, [])), None)  # anew: the values around it are others now
        if loss is None:
            break
        most = max(1, -(-_tokens(loss) // turns))
        whole, place = loss.root.type, line_of(loss.root)
        pieces = rewrite(block, loss, most)
        sort(block)
        remove_dead(block)
        each = size_text(whole.bytes // _tokens(loss) * pieces[0].tokens)
        told.append(
            f"{place}: {whole} is made for {pieces[0].tokens} of {_tokens(loss)} tokens at a time: {each} instead of {size_text(whole.bytes)}"
        )
    return told


def losses(block: ir.Block, notes: list[str]) -> list[Loss]:
    """The largest products of a block that a loop over tokens can hold, with a softmax behind them; notes what stands in the way of the others."""
    found = []
    for root in _largest(block):
        told = ""
        for side in _sides(root):
            loss = Loss.start(root, side)
            try:
                loss.follow(block)
            except Unsuited as why:
                told = told or (f"{line_of(root)}: not in chunks of tokens: {why}" if loss.has_softmax() else "")
                continue
            found += [loss] if loss.has_softmax() else []
            told = ""
            break
        notes += [told] if told else []
    return found


def _largest(block: ir.Block) -> list[Any]:
    products = [op for op in block.operations if isinstance(op, ops.Contract) and op.type.dtype.is_float and op.type.size]
    found = [op for op in products if op.type.size > max(t.size for t in op.types())]
    most = max((op.type.size for op in found), default=0)
    return [op for op in found if 2 * op.type.size >= most and _meets_softmax(op)]


def _meets_softmax(root: Any) -> bool:
    """Whether a softmax, or a sum beside an exponential, reads what is made of a product point by point: most products are left out by this."""
    seen: set[ir.Value] = set()
    stack, kinds = [root.results[0]], set[type]()
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            users = [use.owner.opview for use in value.uses]
            kinds.update(type(op) for op in users)
            stack += [r for op in users if getattr(op, "structure", "") in ("elementwise", "view") for r in op.results if type_of(r).rank > 1]
    return ops.Softmax in kinds or ops.LogSoftmax in kinds or {ops.Exp, ops.Reduce} <= kinds


def _sides(root: Any) -> list[int]:
    """The operands that may have the tokens: of a weight and a value the value."""
    return [k for k in (0, 1) if not is_parameter(root.operands[k])] or [0, 1]
