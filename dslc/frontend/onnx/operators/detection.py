"""Boxes: which of those that overlap are kept."""

from __future__ import annotations

import numpy as np

from .. import types
from ..call import Call
from ..loops import scan
from ..table import operator
from ..values import (
    Value,
    broadcast_to,
    cast,
    computed,
    concat,
    constant,
    expand_axes,
    full,
    gather,
    iota,
    maximum,
    minimum,
    reduce,
    reshape,
    slice_axis,
    sort,
    transpose,
    where,
)  # fmt: skip
from .indexing import first_place


@operator("NonMaxSuppression", note="padded to its bound, batches * classes * boxes of a class: behind the boxes that are kept stand rows of -1")
def _non_max_suppression(
    call: Call, boxes: Value, scores: Value, most: Value | None = None, overlap: Value | None = None, least: Value | None = None
) -> Value:
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4 or (boxes.shape[0], boxes.shape[1]) != (scores.shape[0], scores.shape[2]):
        raise call.misfit(f"boxes {boxes} with scores {scores}")
    count = scores.shape[2]
    turns = min(call.static_ints(most, "number of boxes")[0] if most is not None else 0, count)
    if turns <= 0:
        return constant(np.zeros((0, 3), np.int64))
    low, high = _corners(computed(boxes), bool(call.integer("center_point_box")))
    limit = reshape(computed(overlap), ()) if overlap is not None else constant(np.float32(0.0))
    live = computed(scores)
    if least is not None:
        live = where(live > reshape(computed(least), ()), live, -np.inf)

    def turn(_: list[Value], carries: list[Value]) -> tuple[list[Value], list[Value]]:
        (left,) = carries
        best = first_place(left, "max", 2)  # [batch, class]
        taken = expand_axes(best, [2]).eq(iota(left.shape, 2))
        covered = taken | (_overlap(low, high, best) > limit)
        return [where(covered, -np.inf, left)], [best, reduce(left, "max", [2]) > -np.inf]

    _, (chosen, there) = scan(call, turns, [live], [], turn)
    return _packed(transpose(chosen, [1, 2, 0]), transpose(there, [1, 2, 0]))


def _corners(boxes: Value, centered: bool) -> tuple[Value, Value]:
    """The least and greatest corners, [batches, boxes, 2] each; corners of a file may be any two that lie opposite."""
    a, b = slice_axis(boxes, 2, 0, 2), slice_axis(boxes, 2, 2, 2)
    return (a - b * 0.5, a + b * 0.5) if centered else (minimum(a, b), maximum(a, b))


def _overlap(low: Value, high: Value, best: Value) -> Value:
    """Intersection over union of the best box of each class with all boxes: [batches, classes, boxes]; 0 where they do not meet."""
    (near, far) = (expand_axes(gather(v, [best], batch=1), [2]) for v in (low, high))
    low, high = expand_axes(low, [1]), expand_axes(high, [1])
    shared = reduce(maximum(minimum(far, high) - maximum(near, low), 0.0), "prod", [3])
    union = reduce(far - near, "prod", [3]) + reduce(high - low, "prod", [3]) - shared
    return where(shared > 0.0, shared / where(shared > 0.0, union, 1.0), 0.0)


def _packed(chosen: Value, there: Value) -> Value:
    """Rows (batch, class, box) of the boxes that are there, in order, then rows of -1."""
    size = chosen.size
    kept = reshape(there, (size,))
    rows = concat([reshape(v, (size, 1)) for v in (iota(chosen.shape, 0), iota(chosen.shape, 1), chosen)], 1)
    _, order = sort(iota((size,), 0) + where(kept, 0, full((size,), size, types.INT32)), 0, descending=False)
    rows = where(broadcast_to(expand_axes(kept, [1]), rows.shape), rows, -1)
    return cast(gather(rows, [order]), types.INT64)
