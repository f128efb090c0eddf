"""Quantization: between floats and the integers or small floats that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..types import Elem
from ..values import Value, axis_of, broadcast_to, cast, concat, full, matmul, maximum, minimum, reduce, reshape, round_even, slice_axis, transpose
from .linear import exact_convolution, of_channels, shifted


def _spread(call: Call, v: Value, x: Value, axis: int) -> Value:
    """A scale or zero point over x: one for all, one an entry of an axis, or one a block of it."""
    block = call.integer("block_size")
    if v.size == 1:
        return broadcast_to(reshape(v, ()), x.shape)
    if not block:
        return broadcast_to(reshape(v, [v.size if k == axis else 1 for k in range(x.rank)]), x.shape)
    times = broadcast_to(reshape(v, [*v.shape[: axis + 1], 1, *v.shape[axis + 1 :]]), [*v.shape[: axis + 1], block, *v.shape[axis + 1 :]])
    wide = reshape(times, [*v.shape[:axis], v.shape[axis] * block, *v.shape[axis + 1 :]])
    return slice_axis(wide, axis, 0, x.shape[axis])


def saturated(x: Value, elem: Elem) -> Value:
    """A float of whole numbers as an integer type, its range at most."""
    low, high = elem.limits
    return cast(minimum(maximum(x, float(low)), float(high)), elem)


@operator("QuantizeLinear")
def _quantize(call: Call, x: Value, scale: Value, zero: Value | None = None) -> Value:
    elem = zero.elem if zero is not None else call.elem("output_dtype", types.UINT8)
    axis = axis_of(call.integer("axis", 1), x.rank) if scale.rank and scale.size > 1 else 0
    wide = cast(x, types.FLOAT)
    ratio = wide / _spread(call, cast(scale, types.FLOAT), x, axis)
    if not elem.is_integer or elem.small:
        return cast(ratio, elem, bool(call.integer("saturate", 1)))
    y = round_even(ratio)
    return saturated(y if zero is None else y + cast(_spread(call, zero, x, axis), types.FLOAT), elem)


@operator("DequantizeLinear")
def _dequantize(call: Call, x: Value, scale: Value, zero: Value | None = None) -> Value:
    elem = call.elem("output_dtype", scale.elem)
    axis = axis_of(call.integer("axis", 1), x.rank) if scale.rank and scale.size > 1 else 0
    if zero is not None and x.elem.is_integer:
        wide = cast(cast(x, types.INT32) - cast(_spread(call, zero, x, axis), types.INT32), types.FLOAT)
    else:
        wide = cast(x, types.FLOAT)
    return cast(wide * cast(_spread(call, scale, x, axis), types.FLOAT), elem)


@operator("DynamicQuantizeLinear")
def _dynamic_quantize(call: Call, x: Value) -> tuple[Value, Value, Value]:
    axes = list(range(x.rank))
    low, high = minimum(reduce(x, "min", axes), 0.0), maximum(reduce(x, "max", axes), 0.0)
    scale = (high - low) / 255.0
    zero = saturated(round_even(0.0 - low / scale), types.UINT8)
    y = saturated(round_even(x / scale) + cast(zero, types.FLOAT), types.UINT8)
    return y, scale, zero


@operator("QLinearMatMul")
def _qlinear_matmul(
    call: Call, a: Value, a_scale: Value, a_zero: Value, b: Value, b_scale: Value, b_zero: Value, y_scale: Value, y_zero: Value
) -> Value:
    total = matmul(shifted(a, a_zero, -2), shifted(b, b_zero, -1))
    left = (
        reshape(a_scale, (a_scale.size, 1)) if a_scale.rank == 1 and a_scale.size > 1 else reshape(a_scale, a_scale.shape if a_scale.rank > 1 else ())
    )
    right = b_scale if b_scale.size > 1 else reshape(b_scale, ())
    ratio = cast(left, types.FLOAT) * cast(right, types.FLOAT) / reshape(cast(y_scale, types.FLOAT), ())
    return _requantized(cast(total, types.FLOAT) * ratio, y_zero)


def _requantized(x: Value, zero: Value) -> Value:
    return saturated(round_even(x) + reshape(cast(zero, types.FLOAT), ()), zero.elem)


@operator("QLinearConv")
def _qlinear_conv(
    call: Call, x: Value, x_scale: Value, x_zero: Value, w: Value, w_scale: Value, w_zero: Value, y_scale: Value, y_zero: Value,
    bias: Value | None = None,
) -> Value:  # fmt: skip
    zero = reshape(w_zero, (w_zero.size, *[1] * (w.rank - 1))) if w_zero.size > 1 else w_zero
    total = exact_convolution(call, shifted(x, x_zero, 0), shifted(w, zero, 0))
    total = total if bias is None else total + of_channels(bias, x.rank)
    ratio = reshape(x_scale, ()) * (w_scale if w_scale.size > 1 else reshape(w_scale, ())) / reshape(y_scale, ())
    return _requantized(cast(total, types.FLOAT) * (of_channels(ratio, x.rank) if ratio.size > 1 else ratio), y_zero)


def _real(x: Value, scale: Value, zero: Value) -> Value:
    """The floats that integers stand for, one scale and zero point for all."""
    whole = cast(x, types.INT32) - reshape(cast(zero, types.INT32), ())
    return cast(whole, types.FLOAT) * reshape(scale, ())


def _pointwise(name: str, count: int, compute: Callable[..., Value]) -> None:
    """`name` of com.microsoft: (integers, scale, zero point) of each of `count` operands, then scale and zero point of the result."""

    @operator(name, domain="com.microsoft")
    def _operator(call: Call, *inputs: Value) -> Value:
        operands = [_real(*inputs[3 * k : 3 * k + 3]) for k in range(count)]
        scale, zero = inputs[3 * count : 3 * count + 2]
        return _requantized(compute(*operands) / reshape(scale, ()), zero)


_pointwise("QLinearAdd", 2, lambda a, b: a + b)
_pointwise("QLinearMul", 2, lambda a, b: a * b)
_pointwise("QLinearSigmoid", 1, lambda a: Value(ops.Sigmoid.of(a.value), a.elem))


@operator("QLinearGlobalAveragePool", domain="com.microsoft")
def _qlinear_global_average(call: Call, x: Value, x_scale: Value, x_zero: Value, y_scale: Value, y_zero: Value) -> Value:
    first = 1 if call.integer("channels_last", 0) else 2
    axes = list(range(first, first + x.rank - 2))
    return _requantized(reduce(_real(x, x_scale, x_zero), "mean", axes, keep=True) / reshape(y_scale, ()), y_zero)


@operator("QGemm", domain="com.microsoft")
def _quantized_gemm(
    call: Call, a: Value, a_scale: Value, a_zero: Value, b: Value, b_scale: Value, b_zero: Value, bias: Value | None = None,
    y_scale: Value | None = None, y_zero: Value | None = None,
) -> Value:  # fmt: skip
    """The product of two integer matrices; the bias is of its int32 sums. Floats where no scale of the result is given."""
    left = transpose(a, [1, 0]) if call.integer("transA", 0) else a
    right = transpose(b, [1, 0]) if call.integer("transB", 0) else b
    total = matmul(shifted(left, a_zero, -2), shifted(right, b_zero, -1))
    total = total if bias is None else total + bias
    ratio = reshape(a_scale, ()) * (b_scale if b_scale.size > 1 else reshape(b_scale, ())) * call.number("alpha", 1.0)
    y = cast(total, types.FLOAT) * ratio
    return y if y_scale is None or y_zero is None else _requantized(y / reshape(y_scale, ()), y_zero)


@operator("MatMulNBits", domain="com.microsoft", weights=())
def _matmul_nbits(call: Call, a: Value, b: Value, scales: Value, zeros: Value | None = None, *rest: Value | None) -> Value:
    """a times a matrix [n, k] of 4-bit integers in blocks along k, each with its scale and zero point."""
    k, n, bits, block = (call.integer(name) for name in ("K", "N", "bits", "block_size"))
    if bits not in (4, 8) or any(v is not None for v in rest[:1]):
        raise call.gap(f"{bits} bits, or an order of groups, are not supported")
    blocks = -(-k // block)
    codes = _unpacked(cast(reshape(b, (n, blocks, block * bits // 8)), types.INT32), bits)
    middle: Value = full((n, blocks, 1), 1 << (bits - 1), types.INT32)
    if zeros is not None and zeros.elem is types.UINT8:
        packed = cast(reshape(zeros, (n, prod(zeros.shape) // n)), types.INT32)
        middle = reshape(slice_axis(_unpacked(packed, bits), 1, 0, blocks), (n, blocks, 1))
    weights = cast(codes - middle, a.elem) * reshape(cast(scales, a.elem), (n, blocks, 1))
    return matmul(a, transpose(slice_axis(reshape(weights, (n, blocks * block)), 1, 0, k), [1, 0]))


def _unpacked(x: Value, bits: int) -> Value:
    """Bytes as the 4-bit integers in them, the low one first."""
    if bits == 8:
        return x
    shape = (*x.shape, 1)
    both = [reshape(x & 15, shape), reshape(Value(ops.ShiftRight.of(x.value, ops.full_like(x.value, 4)), x.elem), shape)]
    return reshape(concat(both, x.rank), (*x.shape[:-1], 2 * x.shape[-1]))
