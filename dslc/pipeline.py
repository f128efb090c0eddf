"""The pipelines: the passes from an elaborated model to what a target compiles, one list for each kind of program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .core.errors import TypeError_
from .passes.hoist import Hoist
from .passes.prune import Prune
from .passes.simplify import Simplify
from .recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from .model import Model
    from .passes.searched import Searched
    from .targets import Target


class Pass(Protocol):
    """A frozen dataclass whose fields are its options."""

    def run(self, module: Any) -> None: ...


def pipeline(
    model: Model, elaborated: Any, program: str, target: Target, tuned: Mapping[str, str], aside: int = 0, searched: Searched | None = None
) -> list[Pass]:
    """The passes from the elaborated module to what the target compiles. `tuned`: schedules that were measured on the target's device, by kernel;
    `aside`: bytes that a budget must leave to the target's kernels; `searched`: what was found for this program with other bytes set aside."""
    recipe = RECIPES[program]
    passes: list[Pass] = [Prune(recipe.roles), Simplify(), Hoist()]
    if target.lowered:
        from .passes.hidden import Hidden
        from .passes.split_scores import SplitScores

        passes += [Hidden(), SplitScores()]
    if target.lowered and not recipe.decodes:  # a decoder knows convolutions of single steps
        from .passes.spaced import Spaced

        passes.append(Spaced())
    passes += _precision(recipe, elaborated, target)
    passes += _program(recipe, model, elaborated, program, target)
    if target.lowered:
        passes += _layouts(recipe, model, target)
        passes += _kernels(recipe, elaborated, target, tuned, aside, searched)
    return passes


def _precision(recipe: Recipe, elaborated: Any, target: Target) -> list[Pass]:
    """The types in which the model's ops run."""
    settings = elaborated.settings
    precision = settings.precision if settings is not None else "float32"
    if recipe.training and "int8" in {precision, *elaborated.builder.precisions}:
        raise TypeError_(
            "weights in int8 cannot be trained", help="train in float32 or bfloat16, and set precision=int8 when the model is run or evaluated"
        )
    if precision == "float32" and not elaborated.builder.precisions:
        return []
    from .passes.narrow_scans import NarrowScans
    from .passes.precision import Precision

    narrow: list[Pass] = [NarrowScans()] if target.lowered and not recipe.decodes else []  # a decoder's states are the model's carries
    return [Precision(precision), Simplify(), Hoist(), *narrow]  # casts of a scan's weights go before it


def _program(recipe: Recipe, model: Model, elaborated: Any, program: str, target: Target) -> list[Pass]:
    """What makes a training step, gradients, or the program of one position of it."""
    from .passes.experts import Experts

    grouping: list[Pass] = [Experts()] if target.lowered else []
    if recipe.decodes:  # which knows rows by their time
        from .passes.greedy import Greedy

        ahead: list[Pass] = [Greedy()] if target.repeats and program == "decode" else []
        return [*_gradients(elaborated), model.decoding(elaborated, prefill=program == "prefill"), Simplify(), *ahead, *grouping]
    if not recipe.steps:
        return [*grouping, *_gradients(elaborated)]  # gradients follow the groups
    from .passes.differentiate import Differentiate
    from .passes.turn_blocks import TurnBlocks

    step: list[Pass] = [*grouping, model.train_pass(elaborated, program), Differentiate(), Simplify()]
    return [*step, TurnBlocks()] if target.lowered else step


def _gradients(elaborated: Any) -> list[Pass]:
    """Those that the model asks for itself."""
    if not elaborated.builder.has_gradients:
        return []
    from .passes.differentiate import Differentiate

    return [Differentiate(), Simplify()]


def _layouts(recipe: Recipe, model: Model, target: Target) -> list[Pass]:
    """Parameters and values as the target's kernels read them best, as far as a program may keep them."""
    passes: list[Pass] = []
    if recipe.prepares:
        from .passes.scale_weights import ScaleWeights

        passes.append(ScaleWeights())
    again = recipe.prepares and not recipe.decodes and not model.checked.bounds  # one copy of a model, for what runs again and again
    if target.channels_last:
        from .passes.channels_last import ChannelsLast
        from .passes.widen_channels import WidenChannels

        passes += [WidenChannels(), ChannelsLast()]
    elif again and (lanes := target.lanes()):
        from .passes.channels_last import ChannelsLast

        passes.append(ChannelsLast(lanes))
    if target.phases:
        from .passes.phases import Phases

        passes.append(Phases())
    if target.lines and again:
        from .passes.lines import Lines

        passes.append(Lines())
    if recipe.prepares:
        from .passes.prepare import Prepare
        from .passes.words import Words

        passes += [Words(), Prepare()]
    return passes


def _kernels(recipe: Recipe, elaborated: Any, target: Target, tuned: Mapping[str, str], aside: int, searched: Searched | None) -> list[Pass]:
    """Kernels, within the budget of a step where it has one, with their schedules."""
    from .passes.at_hand import AtHand
    from .passes.attention import Attention
    from .passes.fuse import Fuse
    from .passes.launches import Launches
    from .passes.tile import Tile
    from .passes.traffic import Traffic

    settings = elaborated.settings
    budget = settings.memory if recipe.steps and settings is not None else None
    attention = Attention(target.workers(), target.few_rows and recipe.prepares)
    lighter: list[Pass] = [Traffic()] if budget is not None else [AtHand(), Traffic()]
    fuse: list[Pass] = [Fuse(target.pieces), *(lighter if target.launches else [])]
    if not recipe.steps and not elaborated.builder.has_gradients:
        fewer: list[Pass] = [Launches()] if target.launches and recipe.prepares else []
        return [attention, *fuse, *fewer, Tile(tuned)]
    from .passes.chunk import Chunk
    from .passes.recompute import Recompute
    from .passes.searched import Searched

    searched = searched or Searched()
    chunk = Chunk(budget, aside, target.workers() > 0, searched)
    fusing: list[Pass] = [attention, chunk, Recompute(), *fuse]
    if budget is None:
        return [*fusing, Tile(tuned)]
    from .passes.checkpoint import Checkpoint
    from .passes.scan_schedules import ScanSchedules

    checkpoint = Checkpoint(budget, aside, settings.memory_span or settings.span, searched)
    return [ScanSchedules(chunk, (attention,)), *fusing, checkpoint, Tile(tuned)]


def pass_names(passes: Sequence[Pass]) -> list[str]:
    """A name for each pass, unique in its pipeline: the second `Simplify` is `simplify_2`."""
    names: list[str] = []
    for one in passes:
        base = "".join("_" + c.lower() if c.isupper() else c for c in type(one).__name__).lstrip("_")
        count = sum(n == base or (n.startswith(base + "_") and n[len(base) + 1 :].isdigit()) for n in names)
        names.append(base if count == 0 else f"{base}_{count + 1}")
    return names
