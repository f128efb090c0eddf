"""com.microsoft's attentions: what onnxruntime's optimizer and its model builder make of attention."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from ..call import Call
from ..table import operator
from ..values import (
    Value,
    broadcast_to,
    cast,
    computed,
    concat,
    constant,
    contract,
    expand_axes,
    gather,
    iota,
    pad,
    places,
    reshape,
    slice_axis,
    softmax,
    tanh,
    transpose,
    where,
)  # fmt: skip
from ..values import matmul as product

# --- what both have -----------------------------------------------------------------------------------------------------------------------


def heads(x: Value, count: int) -> Value:
    """[b, t, count * c] -> [b, count, t, c]"""
    batch, time, width = x.shape
    return transpose(reshape(x, (batch, time, count, width // count)), [0, 2, 1, 3])


def joined(x: Value) -> Value:
    """[b, n, t, c] -> [b, t, n * c]"""
    batch, count, time, width = x.shape
    return reshape(transpose(x, [0, 2, 1, 3]), (batch, time, count * width))


def _by_keys(x: Value, shared: int) -> Value:
    """[b, n, s, t] -> [b, shared, n / shared, s, t]: heads that share one of the keys together."""
    batch, count, *rest = x.shape
    return reshape(x, (batch, shared, count // shared, *rest))


def scores_of(q: Value, k: Value) -> Value:
    """[b, n, s, t] of q [b, n, s, c] and k [b, m, t, c]: n / m heads of q share one of k."""
    made = contract(_by_keys(q, k.shape[1]), k, [0, 1, 2, 3, 5], [0, 1, 4, 5], [0, 1, 2, 3, 4])
    return reshape(made, (*q.shape[:3], k.shape[2]))


def weighted(p: Value, v: Value) -> Value:
    """[b, n, s, c] of weights [b, n, s, t] and v [b, m, t, c]."""
    made = contract(_by_keys(p, v.shape[1]), v, [0, 1, 2, 3, 4], [0, 1, 4, 5], [0, 1, 2, 3, 5])
    return reshape(made, (*p.shape[:3], v.shape[3]))


def _refuse(call: Call, given: dict[str, Any]) -> None:
    """A gap for each of what is there and not supported."""
    for name, there in given.items():
        if there:
            raise call.gap(f"{name} is not supported")


# --- Attention ----------------------------------------------------------------------------------------------------------------------------


@operator("Attention", domain="com.microsoft", weights=(1, 2), note="without rotation and without a shared buffer of past and present")
def _attention(
    call: Call, x: Value, weights: Value, bias: Value | None = None, mask: Value | None = None, past: Value | None = None,
    added: Value | None = None, past_length: Value | None = None,
) -> tuple[Value, Value | None]:  # fmt: skip
    _refuse(call, {"do_rotary": call.integer("do_rotary"), "past_present_share_buffer": call.integer("past_present_share_buffer")})
    count, third = call.integer("num_heads"), weights.shape[1] // 3
    sizes = call.ints("qkv_hidden_sizes", [third] * 3)
    if count < 1 or sum(sizes) != weights.shape[1] or any(n % count for n in sizes):
        raise call.misfit(f"{count} heads of sizes {sizes} from weights {weights}")
    made = product(x, weights)
    made = made if bias is None else made + bias
    q, k, v = (heads(slice_axis(made, 2, sum(sizes[:n]), size), count) for n, size in enumerate(sizes))
    if past is not None:
        k, v = (concat([reshape(slice_axis(past, 0, n, 1), past.shape[1:]), new], 2) for n, new in enumerate((k, v)))
    scores = computed(scores_of(q, k)) * (call.number("scale") or 1 / sqrt(q.shape[3]))
    batch, _, rows, length = scores.shape
    if mask is not None:
        seen = _seen(call, mask, batch, rows, length)
        scores = scores + where(seen, 0.0, broadcast_to(constant(np.float32(call.number("mask_filter_value", -10000.0))), seen.shape))
    if added is not None:
        scores = scores + computed(added)
    if call.integer("unidirectional"):
        at = (rows, length)
        scores = where(broadcast_to(iota(at, 1) <= iota(at, 0) + (length - rows), scores.shape), scores, -np.inf)
    y = joined(weighted(cast(softmax(scores, 3), v.elem), v))
    present = concat([expand_axes(k, [0]), expand_axes(v, [0])], 0) if call.wants(1) else None
    return y, present


def _seen(call: Call, mask: Value, batch: int, rows: int, length: int) -> Value:
    """bool [b, 1, s or 1, t] of the mask's forms: a flag a key, a flag a pair, the keys' ends, their ends and starts."""
    if mask.shape == (batch, length):
        return expand_axes(mask > 0, [1, 2])
    if mask.shape == (batch, rows, length):
        return expand_axes(mask > 0, [1])
    if mask.shape not in ((batch,), (2 * batch,)):
        raise call.gap(f"a mask {mask} for {batch} rows of {rows} queries and {length} keys is not supported")
    at, shape = iota((batch, 1, 1, length), 3), (batch, 1, 1, length)
    bounds = [broadcast_to(reshape(slice_axis(mask, 0, k, batch), (batch, 1, 1, 1)), shape) for k in range(0, mask.size, batch)]
    seen = at < bounds[0]
    return seen if len(bounds) == 1 else seen & (at >= bounds[1])


# --- GroupQueryAttention ------------------------------------------------------------------------------------------------------------------


@operator("GroupQueryAttention", domain="com.microsoft", note="total_sequence_length must be known at compile time; caches of floats")
def _group_query_attention(
    call: Call, query: Value, key: Value | None, value: Value | None, past_key: Value | None, past_value: Value | None, ends: Value, total: Value,
    cos: Value | None = None, sin: Value | None = None, positions: Value | None = None, added: Value | None = None, sink: Value | None = None,
    *more: Value | None,
) -> tuple[Value, Value, Value]:  # fmt: skip
    _refuse(call, {"a scale of a quantized cache": any(v is not None for v in more), "output_qk": call.wants(3)})
    count, shared, rows = call.integer("num_heads"), call.integer("kv_num_heads"), query.shape[1]
    if shared < 1 or count % shared:
        raise call.misfit(f"{count} heads over {shared} of keys")
    if key is None or value is None:
        width = query.shape[2] // (count + 2 * shared)
        parts = [(0, count), (count, shared), (count + shared, shared)]
        query, key, value = (slice_axis(query, 2, start * width, n * width) for start, n in parts)
    q, k, v = heads(query, count), heads(key, shared), heads(value, shared)
    whole = call.static_ints(total, "total sequence length")[0]
    length = max(whole, past_key.shape[2] if past_key is not None else 0)
    batch = query.shape[0]
    before = reshape(places(ends), (batch,)) + (1 - rows)  # positions in the cache
    if whole == rows:
        before = constant(np.zeros(batch, np.int32))
    if call.integer("do_rotary"):
        if cos is None or sin is None:
            raise call.mistake("do_rotary needs cos_cache and sin_cache")
        at = places(positions) if positions is not None else _at(before, rows)
        q, k = (_rotated(x, cos, sin, at, bool(call.integer("rotary_interleaved"))) for x in (q, k))
    k, v = (_appended(past, new, before, length) for past, new in ((past_key, k), (past_value, v)))
    scores = computed(scores_of(q, k)) * (call.number("scale") or 1 / sqrt(q.shape[3]))
    cap = call.number("softcap")
    scores = tanh(scores / cap) * cap if cap else scores
    if added is not None:
        wide = computed(added)
        scores = scores + (pad(wide, [0] * 4, [0, 0, 0, length - wide.shape[3]]) if wide.shape[3] < length else wide)
    shape = (batch, 1, rows, length)
    now, there = broadcast_to(expand_axes(_at(before, rows), [1, 3]), shape), iota(shape, 3)
    window = call.integer("local_window_size", -1)
    seen = there <= now if window < 0 else (there <= now) & (there > now - window)
    scores = where(broadcast_to(seen, scores.shape), scores, -np.inf)
    p = _sunk(scores, sink) if sink is not None or call.integer("smooth_softmax") > 0 else softmax(scores, 3)
    return joined(weighted(cast(p, v.elem), v)), k, v


def _at(before: Value, rows: int) -> Value:
    """int32 [b, s]: the position of each query."""
    shape = (before.size, rows)
    return broadcast_to(expand_axes(before, [1]), shape) + iota(shape, 1)


def _appended(past: Value | None, new: Value, before: Value, length: int) -> Value:
    """[b, m, length, c]: of each row the `before` first positions of the past, then the new ones, then zeros."""
    batch, shared, _, width = new.shape
    shape = (batch, length)
    at = iota(shape, 1) - broadcast_to(expand_axes(before, [1]), shape)
    made = transpose(gather(transpose(new, [0, 2, 1, 3]), [at], batch=1), [0, 2, 1, 3])
    if past is None:
        return made
    old = pad(past, [0] * 4, [0, 0, length - past.shape[2], 0])
    return where(broadcast_to(expand_axes(at < 0, [1, 3]), (batch, shared, length, width)), old, made)


def _rotated(x: Value, cos: Value, sin: Value, at: Value, interleaved: bool) -> Value:
    """Pairs of x [b, n, t, c] turned by the angle of their position: neighbours, or one of each half; what the caches do not reach stays."""
    pairs = cos.shape[1]
    turned = slice_axis(x, 3, 0, 2 * pairs)
    rest = slice_axis(x, 3, 2 * pairs, x.shape[3] - 2 * pairs)
    c, s = (expand_axes(gather(v, [at]), [1]) for v in (cos, sin))
    if interleaved:
        a, b = slice_axis(turned, 3, 0, pairs, 2), slice_axis(turned, 3, 1, pairs, 2)
        y = reshape(concat([expand_axes(v, [4]) for v in (a * c - b * s, b * c + a * s)], 4), turned.shape)
    else:
        a, b = slice_axis(turned, 3, 0, pairs), slice_axis(turned, 3, pairs, pairs)
        y = concat([a * c - b * s, b * c + a * s], 3)
    return concat([y, rest], 3) if rest.size else y


def _sunk(scores: Value, sink: Value | None) -> Value:
    """A softmax with one more score, a head's own or 0, whose weight goes nowhere."""
    batch, count, rows, length = scores.shape
    shape = (batch, count, rows, 1)
    extra = broadcast_to(reshape(computed(sink), (1, count, 1, 1)) if sink is not None else constant(np.zeros((1, 1, 1, 1), np.float32)), shape)
    return slice_axis(softmax(concat([scores, extra], 3), 3), 3, 0, length)
