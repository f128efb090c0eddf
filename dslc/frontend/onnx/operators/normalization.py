"""Normalizations."""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir import ops

from ..call import Call
from ..table import operator
from ..values import Value, absolute, axes_of, axis_of, cast, computed, reduce, reshape, rsqrt, sqrt, where
from .linear import of_channels


def moments(x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    """(mean, variance), with the axes kept."""
    mean = reduce(x, "mean", axes, keep=True)
    away = x - mean
    return mean, reduce(away * away, "mean", axes, keep=True)


@operator("BatchNormalization", weights=(1, 2), states=(3, 4), note="in training programs: statistics of the batch, which the running ones follow")
def _batch_norm(call: Call, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> tuple[Value, ...]:
    if call.version < 9 and not call.integer("spatial", 1):
        raise call.gap("statistics of each element (spatial=0) are not supported")
    momentum, epsilon = call.number("momentum", 0.9), call.number("epsilon", 1e-5)
    follows = call.training and mean.value in call.run.state_paths
    if follows and call.run.turns:
        raise call.gap("running statistics that follow the batches of a loop are not supported")
    paths = [call.run.state_paths[v.value] for v in (mean, variance)] if follows else []
    if follows:  # of a layer that is used twice, what its first use left
        mean, variance = (Value(call.run.builder.next_states.get(path, v.value), v.elem) for path, v in zip(paths, (mean, variance)))
    wide, stats = computed(x), (cast(mean, computed(mean).elem), cast(variance, computed(variance).elem))
    new: tuple[Value, ...] = ()
    if call.integer("training_mode") or follows:
        axes = [0, *range(2, x.rank)]
        found = [reshape(v, mean.shape) for v in moments(cast(wide, stats[0].elem), axes)]
        new = tuple(cast(old * momentum + here * (1.0 - momentum), mean.elem) for old, here in zip(stats, found))
        if follows:
            count = x.size // x.shape[1]
            unbiased = found[1] * (count / max(count - 1, 1))  # as torch, whose running variance is that of a sample
            kept = (new[0], cast(stats[1] * momentum + unbiased * (1.0 - momentum), variance.elem))
            call.run.builder.next_states.update(zip(paths, (v.value for v in kept)))
        stats = (found[0], found[1])
    factor = cast(scale, wide.elem) * rsqrt(cast(stats[1], wide.elem) + epsilon)
    offset = cast(bias, wide.elem) - cast(stats[0], wide.elem) * factor
    y = cast(wide * of_channels(factor, x.rank) + of_channels(offset, x.rank), x.elem)
    return (y, *new) if new else (y, mean, variance)


@operator("InstanceNormalization", weights=(1, 2))
def _instance_norm(call: Call, x: Value, scale: Value, bias: Value) -> Value:
    wide = computed(x)
    mean, variance = moments(wide, list(range(2, x.rank)))
    y = (wide - mean) * rsqrt(variance + call.number("epsilon", 1e-5))
    return cast(y * of_channels(cast(scale, wide.elem), x.rank) + of_channels(cast(bias, wide.elem), x.rank), x.elem)


@operator("LayerNormalization", weights=(1, 2))
def _layer_norm(call: Call, x: Value, scale: Value, bias: Value | None = None) -> tuple[Value, Value, Value]:
    axes = list(range(axis_of(call.integer("axis", -1), x.rank), x.rank))
    wide = computed(x)
    mean, variance = moments(wide, axes)
    deviation = rsqrt(variance + call.number("epsilon", 1e-5))
    y = cast((wide - mean) * deviation, x.elem) * scale
    return (y if bias is None else y + bias), mean, deviation


@operator("RMSNormalization", weights=(1,))
def _rms_norm(call: Call, x: Value, scale: Value) -> Value:
    axes = list(range(axis_of(call.integer("axis", -1), x.rank), x.rank))
    wide = computed(x)
    y = wide * rsqrt(reduce(wide * wide, "mean", axes, keep=True) + call.number("epsilon", 1e-5))
    return cast(y, scale.elem) * scale


@operator("GroupNormalization", weights=(1, 2))
def _group_norm(call: Call, x: Value, scale: Value, bias: Value) -> Value:
    groups, channels = call.integer("num_groups"), x.shape[1]
    wide = reshape(computed(x), (x.shape[0], groups, channels // groups, *x.shape[2:]))
    mean, variance = moments(wide, list(range(2, wide.rank)))
    y = (wide - mean) * rsqrt(variance + call.number("epsilon", 1e-5))
    if scale.size == groups and call.version < 21:
        factor, offset = (reshape(cast(v, y.elem), (1, groups, *[1] * (y.rank - 2))) for v in (scale, bias))
        return cast(reshape(y * factor + offset, x.shape), x.elem)
    factor, offset = (of_channels(cast(v, y.elem), x.rank) for v in (scale, bias))
    return cast(reshape(y, x.shape) * factor + offset, x.elem)


@operator("MeanVarianceNormalization")
def _mvn(call: Call, x: Value) -> Value:
    axes = axes_of(call.ints("axes", [0, 2, 3]), x.rank)
    mean, variance = moments(computed(x), axes)
    return cast((computed(x) - mean) / (sqrt(variance) + 1e-9), x.elem)


@operator("LpNormalization")
def _lp_norm(call: Call, x: Value) -> Value:
    axis, wide = axis_of(call.integer("axis", -1), x.rank), computed(x)
    if call.integer("p", 2) == 1:
        norm = reduce(absolute(wide), "sum", [axis], keep=True)
    else:
        norm = sqrt(reduce(wide * wide, "sum", [axis], keep=True))
    return cast(where(norm.eq(0.0), 0.0, wide / where(norm.eq(0.0), 1.0, norm)), x.elem)


@operator("LRN")
def _lrn(call: Call, x: Value) -> Value:
    size, wide = call.integer("size"), computed(x)
    rank, before = x.rank, (size - 1) // 2
    rows = [[int(k == a) for k in range(rank + 1)] for a in range(rank)]
    rows[1][rank] = 1
    near = ops.view((wide * wide).value, rows, [-before * (a == 1) for a in range(rank)], (*x.shape, size))
    total = reduce(Value(near, wide.elem), "sum", [rank])
    scale = total * (call.number("alpha", 1e-4) / size) + call.number("bias", 1.0)
    return cast(wide / scale ** call.number("beta", 0.75), x.elem)


@operator("SkipLayerNormalization", domain="com.microsoft", weights=(2, 3, 4))
def _skip_layer_norm(call: Call, x: Value, skip: Value, gamma: Value, beta: Value | None = None, bias: Value | None = None) -> tuple[Value, ...]:
    total = x + skip
    total = total + bias if bias is not None else total
    mean, variance = moments(computed(total), [x.rank - 1])
    deviation = rsqrt(variance + call.number("epsilon", 1e-5))
    y = cast((computed(total) - mean) * deviation, x.elem) * gamma
    return (y if beta is None else y + beta), mean, deviation, total
