"""A model's outputs as an ONNX graph: the reverse of the import, op by op from the simplified program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .compiler import lower
from .core.dtypes import DType
from .core.errors import DataError, UnsupportedOp
from .frontend.onnx.types import of_dtype
from .ir import ops
from .ir.mlir import func, ir
from .ir.op import Op
from .ir.ops.reduction import identity
from .ir.program import arguments_of, program_of, results_of
from .ir.types import spans_of, type_of
from .model import Model
from .targets import target_of

OPSET = 20

SAME = {
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "min": "Min", "max": "Max", "pow": "Pow",
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan",
    "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf",
    "round": "Round", "floor": "Floor", "ceil": "Ceil", "select": "Where", "stop_gradient": "Identity",
}  # fmt: skip
LOGICAL = {"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"), "xor": ("Xor", "BitwiseXor"), "not": ("Not", "BitwiseNot")}
COMPARISONS = {"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal"}
SCATTERS = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
FOLDS = {"sum": "ReduceSum", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin", "any": "ReduceMax", "all": "ReduceMin"}


class Writer:
    """Collects nodes and constants; `names` are those of the values."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names: dict[ir.Value, str] = {}
        self.gaps: dict[str, Op] = {}
        self.made = 0  # values, in inner graphs too

    def fresh(self) -> str:
        self.made += 1
        return f"v{self.made}"

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = self.fresh()
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, value: float, dtype: DType) -> str:
        return self.constant(np.asarray(value).astype(dtype.numpy))

    def sizes(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", x, self.sizes(shape), allowzero=1)

    def op(self, op: Op) -> None:
        if isinstance(op, ops.Scan):
            _scan(self, op)
            return
        inputs = [self.names[v] for v in op.operands]
        writer = WRITERS.get(type(op))
        name = op.operation.name.removeprefix("nn.")
        if writer is not None:
            made = writer(self, op, *inputs)
        elif name in SAME:
            made = self.node(SAME[name], *inputs)
        elif name in LOGICAL:
            made = self.node(LOGICAL[name][0 if type_of(op.operands[0]).dtype.is_bool else 1], *inputs)
        else:
            made = self.gap(op)
        self.names.update(zip(op.results, made if isinstance(made, tuple) else (made,)))

    def gap(self, op: Op) -> str:
        self.gaps.setdefault(op.operation.name, op)
        for result in op.results:
            self.names[result] = ""
        return ""


def _compare(w: Writer, op: ops.Compare, a: str, b: str) -> str:
    if op.predicate == "ne":
        return w.node("Not", w.node("Equal", a, b))
    return w.node(COMPARISONS[op.predicate], a, b)


def _view(w: Writer, op: ops.View, x: str) -> str:
    """Slices, a transpose and a broadcast where that is all; else a gather at known places."""
    t, rows, shape = type_of(op.x), op.matrix, op.shape
    used = [[k for k, f in enumerate(row) if f] for row in rows]
    flat = [k for ks in used for k in ks]
    if not op.inside or any(len(ks) > 1 for ks in used) or len(set(flat)) < len(flat) or not prod(shape):
        return _gathered(w, op, x)
    for axis, (row, offset, ks) in enumerate(zip(rows, op.offsets, used)):
        count, step = (shape[ks[0]], row[ks[0]]) if ks else (1, 1)
        if (offset, count, step) != (0, t.shape[axis], 1):
            end = offset + count * step
            x = w.node("Slice", x, *(w.sizes([v]) for v in (offset, end if end >= 0 else -(1 << 31), axis, step)))
    kept = [axis for axis, ks in enumerate(used) if ks]
    order = sorted(kept, key=lambda axis: used[axis][0])
    x = w.reshape(x, [shape[used[axis][0]] for axis in kept])
    if order != kept:
        x = w.node("Transpose", x, perm=[kept.index(axis) for axis in order])
    if len(flat) < len(shape):
        x = w.node("Expand", w.reshape(x, [n if k in flat else 1 for k, n in enumerate(shape)]), w.sizes(shape))
    return x


def _gathered(w: Writer, op: ops.View, x: str) -> str:
    t = type_of(op.x)
    at, inside = _places(op.matrix, op.offsets, t.shape, op.shape)
    if not t.size:
        return w.constant(np.full(op.shape, op.outside).astype(t.dtype.numpy))
    found = w.node("Gather", w.reshape(x, [t.size]), w.constant(at))
    return found if inside.all() else w.node("Where", w.constant(inside), found, w.number(op.outside, t.dtype))


def _places(rows: Sequence[Sequence[int]], offsets: Sequence[int], sizes: Sequence[int], points: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(place in a flat tensor of these sizes, whether it is inside) of each point, where the coordinates are sums of strides."""
    at, inside, index = np.zeros(points, np.int64), np.ones(points, bool), np.indices(points)
    for row, offset, n in zip(rows, offsets, sizes):
        place = offset + sum((f * index[k] for k, f in enumerate(row) if f), np.zeros(points, np.int64))
        inside &= (place >= 0) & (place < n)
        at = at * n + np.clip(place, 0, max(n - 1, 0))
    return at, inside


def _scattered(w: Writer, updates: str, at: str, count: int, rest: Sequence[int], kind: str, dtype: DType) -> str:
    """[count, rest...]: updates [k, rest...] folded at the places `at` [k]; those at `count` are dropped with the row behind the last."""
    start = w.constant(np.full((count + 1, *rest), identity(kind, dtype)).astype(dtype.numpy))
    made = w.node("ScatterND", start, w.node("Unsqueeze", at, w.sizes([1])), updates, reduction=SCATTERS[kind])
    return w.node("Slice", made, *(w.sizes([v]) for v in (0, count, 0)))


def _scatter(w: Writer, op: ops.Scatter, u: str, *ids: str) -> str:
    """Places in the flat tensor of batches and sizes; an index outside has the place behind the last."""
    t, given = op.type, type_of(op.operands[1])
    sizes, rest = t.shape[: op.batch + len(ids)], t.shape[op.batch + len(ids) :]
    at, inside = w.constant(_places(np.eye(op.batch, given.rank, dtype=int).tolist(), [0] * op.batch, sizes[: op.batch], given.shape)[0]), ""
    for name, n in zip(ids, op.sizes):
        name = w.node("Cast", name, to=onnx.TensorProto.INT64)
        zero, end = w.constant(np.int64(0)), w.constant(np.int64(n))
        here = w.node("And", w.node("GreaterOrEqual", name, zero), w.node("Less", name, end))
        inside = w.node("And", inside, here) if inside else here
        at = w.node("Add", w.node("Mul", at, end), name)
    at = w.reshape(w.node("Where", inside, at, w.constant(np.int64(prod(sizes)))), [given.size])
    return w.reshape(_scattered(w, w.reshape(u, [given.size, *rest]), at, prod(sizes), rest, op.kind, t.dtype), t.shape)


def _fold(w: Writer, op: ops.Fold, g: str) -> str:
    t = type_of(op.g)
    at, inside = _places(op.matrix, op.offsets, op.shape, t.shape)
    places = w.constant(np.where(inside, at, prod(op.shape)).reshape(-1))
    return w.reshape(_scattered(w, w.reshape(g, [t.size]), places, prod(op.shape), (), "sum", t.dtype), op.shape)


def _sort(w: Writer, op: ops.Sort, x: str) -> tuple[str, str]:
    names = w.fresh(), w.fresh()
    w.nodes.append(helper.make_node("TopK", [x, w.sizes([op.count])], names, axis=op.axis, largest=int(op.descending), sorted=1))
    return names[0], w.node("Cast", names[1], to=onnx.TensorProto.INT32)


def _fft(w: Writer, op: ops.FFT, re: str, im: str) -> tuple[str, ...]:
    last = type_of(op.re).rank
    pair = w.node("Concat", *(w.node("Unsqueeze", v, w.sizes([last])) for v in (re, im)), axis=last)
    made = w.node("DFT", pair, "", w.constant(np.int64(op.axis)), inverse=int(op.inverse))
    return tuple(w.node("Gather", made, w.constant(np.int64(k)), axis=last) for k in (0, 1))


def _random(w: Writer, op: ops.Random, *_: str) -> str:
    """ONNX's own draws: of the same distribution, not the same numbers."""
    if op.kind == "normal":
        return w.node("RandomNormal", shape=op.shape)
    if op.kind == "uniform":
        return w.node("RandomUniform", shape=op.shape)
    drawn = w.node("Floor", w.node("RandomUniform", shape=op.shape, low=float(op.low), high=float(op.high)))
    return _cast_to(w, w.node("Min", drawn, w.constant(np.float32(op.high - 1))), op.type.dtype)


def _reduce(w: Writer, op: ops.Reduce, x: str) -> str:
    truth = op.kind in ("any", "all")
    x = w.node("Cast", x, to=onnx.TensorProto.INT32) if truth else x
    y = w.node(FOLDS[op.kind], x, w.sizes(sorted(op.axes)), keepdims=0)
    return w.node("Cast", y, to=onnx.TensorProto.BOOL) if truth else y


def _contract(w: Writer, op: ops.Contract, a: str, b: str) -> str:
    letters = {i: chr(ord("a") + k) for k, i in enumerate(sorted({*op.lhs, *op.rhs}))}
    terms = ["".join(letters[i] for i in axes) for axes in (op.lhs, op.rhs, op.out)]
    y = w.node("Einsum", a, b, equation=f"{terms[0]},{terms[1]}->{terms[2]}")
    return _cast_to(w, y, op.dtype) if op.dtype != type_of(op.a).dtype else y


def _conv(w: Writer, op: ops.Conv, x: str, filters: str) -> str:
    """As it is; transposed where elements have a distance and the window moves by one; else over an operand that is spread and cut beforehand."""
    a, b = op.types()
    kernel, space, low = b.shape[3:], a.shape[3:], list(op.low)
    x, filters = (_cast_to(w, v, op.dtype) if op.dtype != t.dtype else v for v, t in ((x, a), (filters, b)))
    x = w.reshape(x, [a.shape[0], a.shape[1] * a.shape[2], *space])
    if any(s != 1 for s in op.spacing):
        reach = [(k - 1) * d for k, d in zip(kernel, op.dilation)]
        whole = [s * (n - 1) + r + 1 for s, n, r in zip(op.spacing, space, reach)]
        cut = [r - before for r, before in zip(reach, low)]
        behind = [n - c - m for n, c, m in zip(whole, cut, op.size)]
        if all(s == 1 for s in op.stride) and min(*cut, *behind) >= 0:
            return w.reshape(_transposed(w, op, x, filters, [*cut, *behind]), op.type.shape)
    high = [(n - 1) * s + (k - 1) * d + 1 - m - before
            for n, s, k, d, m, before in zip(op.size, op.stride, kernel, op.dilation, space, low)]  # fmt: skip
    if any(s != 1 for s in op.spacing) or any(p < 0 for p in (*low, *high)):
        x, low, high = _spread(w, op, x), [0] * len(space), [0] * len(space)
    filters = w.reshape(filters, [b.shape[0] * b.shape[1], *b.shape[2:]])
    y = w.node("Conv", x, filters, group=b.shape[0], strides=op.stride, dilations=op.dilation, pads=[*low, *high], kernel_shape=kernel)
    return w.reshape(y, op.type.shape)


def _transposed(w: Writer, op: ops.Conv, x: str, filters: str, pads: Sequence[int]) -> str:
    """[n, g * o, ...]: ONNX's filters [g * c, o, ...] run the other way."""
    b, space = op.types()[1], len(op.size)
    turned = w.node("Transpose", filters, perm=[0, 2, 1, *range(3, 3 + space)])
    ends = [w.sizes(v) for v in ([-1] * space, [-(1 << 31)] * space, range(3, 3 + space), [-1] * space)]
    turned = w.reshape(w.node("Slice", turned, *ends), [b.shape[0] * b.shape[2], b.shape[1], *b.shape[3:]])
    return w.node("ConvTranspose", x, turned, group=b.shape[0], strides=op.spacing, dilations=op.dilation, pads=pads, kernel_shape=b.shape[3:])


def _spread(w: Writer, op: ops.Conv, x: str) -> str:
    """The operand as the window passes over it: elements at their distance, zeros between and around, what is not read cut off."""
    a, b = op.types()
    for k, (n, size) in enumerate(zip(a.shape[3:], op.size)):
        place = np.arange((size - 1) * op.stride[k] + (b.shape[3 + k] - 1) * op.dilation[k] + 1) - op.low[k]
        read = np.where((place >= 0) & (place % op.spacing[k] == 0) & (place < n * op.spacing[k]), place // op.spacing[k], n)
        x = w.node("Pad", x, w.sizes([0, 1]), "", w.sizes([2 + k]))  # a zero behind the last element, for what lies outside
        x = w.node("Gather", x, w.constant(read.astype(np.int64)), axis=2 + k)
    return x


def _gather(w: Writer, op: ops.Gather, x: str, *ids: str) -> str:
    t, shape, batch = type_of(op.operands[0]), type_of(op.operands[1]).shape, op.batch
    inside, columns = "", []
    for name, v, n in zip(ids, list(op.operands)[1:], t.shape[batch:]):
        zero, end = w.number(0, type_of(v).dtype), w.number(n, type_of(v).dtype)
        here = w.node("And", w.node("GreaterOrEqual", name, zero), w.node("Less", name, end))
        inside = w.node("And", inside, here) if inside else here
        safe = w.node("Cast", w.node("Where", here, name, zero), to=onnx.TensorProto.INT64)
        columns.append(w.reshape(safe, [*shape, 1]))
    found = w.node("GatherND", x, w.node("Concat", *columns, axis=-1) if len(columns) > 1 else columns[0], batch_dims=batch)
    mask = w.reshape(inside, [*shape, *[1] * (len(op.type.shape) - len(shape))])
    return w.node("Where", mask, found, w.number(op.outside, t.dtype))


def _scan(w: Writer, op: ops.Scan) -> None:
    """The turn's number is one more scanned input; constants are seen from inside."""
    block = op.regions[0].blocks[0]
    turn, *arguments = block.arguments
    constants, carries = op.constants, op.carries
    given = [w.names[v] for v in op.operands]
    w.names.update(zip(arguments[:constants], given))
    inner = [*arguments[constants : constants + carries], turn, *arguments[constants + carries :]]
    for v in inner:
        w.names[v] = w.fresh()
    outer, w.nodes = w.nodes, []
    *body, last = block.operations
    for one in body:
        w.op(one)
    results = [w.node("Identity", w.names[v]) for v in last.operands]
    nodes, w.nodes = w.nodes, outer
    ports = [_port(w.names[v], v) for v in inner]
    graph = helper.make_graph(nodes, "turn", ports, [_port(name, v) for name, v in zip(results, last.operands)])
    names = [w.fresh() for _ in op.results]
    scanned = [w.constant(np.arange(op.trip, dtype=np.int32)), *given[constants + carries :]]
    back, stacks = int(op.backward), len(names) - carries
    directions: dict[str, Any] = {"scan_output_directions": [back] * stacks} if stacks else {}  # no list may be empty
    w.nodes.append(helper.make_node(
        "Scan", [*given[constants : constants + carries], *scanned], names, body=graph, num_scan_inputs=len(scanned),
        scan_input_directions=[back] * len(scanned), **directions,
    ))  # fmt: skip
    w.names.update(zip(op.results, names))


def _port(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    t = type_of(value)
    return helper.make_tensor_value_info(name, of_dtype(t.dtype).code, t.shape)


def _cast_to(w: Writer, x: str, dtype: DType) -> str:
    return w.node("Cast", x, to=of_dtype(dtype).code)


def _cumulative(w: Writer, op: ops.Cumulative, x: str) -> str:
    if op.kind == "sum":
        return w.node("CumSum", x, w.constant(np.int64(op.axis)), reverse=int(op.reverse), exclusive=int(op.exclusive))
    if op.kind != "prod":
        return w.gap(op)
    t = op.type
    shape = [n for k, n in enumerate(t.shape) if k != op.axis]
    so_far, here, after, given, last, all_ = (w.fresh() for _ in range(6))
    code = of_dtype(t.dtype).code
    body = [helper.make_node("Mul", [so_far, here], [after]), helper.make_node("Identity", [so_far if op.exclusive else after], [given])]
    inner, outer = ([helper.make_tensor_value_info(name, code, shape) for name in names] for names in ((so_far, here), (after, given)))
    start, back = w.constant(np.full(shape, identity(op.kind, t.dtype)).astype(t.dtype.numpy)), [int(op.reverse)]
    w.nodes.append(helper.make_node(
        "Scan", [start, x], [last, all_], body=helper.make_graph(body, "running", inner, outer), num_scan_inputs=1, scan_input_axes=[op.axis],
        scan_output_axes=[op.axis], scan_input_directions=back, scan_output_directions=back,
    ))  # fmt: skip
    return all_


def _remainder(w: Writer, op: ops.Mod, a: str, b: str) -> str:
    if op.type.dtype.is_integer:
        return w.node("Mod", a, b)
    return w.node("Sub", a, w.node("Mul", b, w.node("Floor", w.node("Div", a, b))))


def _quotient(w: Writer, op: ops.FloorDiv, a: str, b: str) -> str:
    if op.type.dtype.is_integer:  # (a - a mod b) / b: exact, so that the rounding of Div does not matter
        return w.node("Div", w.node("Sub", a, w.node("Mod", a, b)), b)
    return w.node("Floor", w.node("Div", a, b))


def _shifted(w: Writer, op: Op, a: str, b: str) -> str:
    left, dtype = isinstance(op, ops.ShiftLeft), op.type.dtype
    if dtype.kind == "uint":
        return w.node("BitShift", a, b, direction="LEFT" if left else "RIGHT")
    power = w.node("Pow", w.number(2, dtype), b)
    return w.node("Mul", a, power) if left else w.node("Div", w.node("Sub", a, w.node("Mod", a, power)), power)


def _one(w: Writer, op: Op) -> str:
    return w.number(1, op.type.dtype)


WRITERS: dict[type[Op], Callable[..., str | tuple[str, ...]]] = {
    ops.Constant: lambda w, op: w.constant(op.reference()),
    ops.Iota: lambda w, op: w.constant(op.reference()),
    ops.Compare: _compare,
    ops.Cast: lambda w, op, x: _cast_to(w, x, op.dtype),
    ops.Expm1: lambda w, op, x: w.node("Sub", w.node("Exp", x), _one(w, op)),
    ops.Log1p: lambda w, op, x: w.node("Log", w.node("Add", x, _one(w, op))),
    ops.Rsqrt: lambda w, op, x: w.node("Reciprocal", w.node("Sqrt", x)),
    ops.Mod: _remainder,
    ops.FloorDiv: _quotient,
    ops.View: _view,
    ops.Reshape: lambda w, op, x: w.reshape(x, op.shape),
    ops.Concat: lambda w, op, *xs: w.node("Concat", *xs, axis=op.axis),
    ops.Reduce: _reduce,
    ops.ArgReduce: lambda w, op, x: w.node(
        "Cast", w.node("ArgMax" if op.kind == "max" else "ArgMin", x, axis=op.axis, keepdims=0), to=onnx.TensorProto.INT32
    ),
    ops.Cumulative: _cumulative,
    ops.Softmax: lambda w, op, x: w.node("Softmax", x, axis=op.axis),
    ops.LogSoftmax: lambda w, op, x: w.node("LogSoftmax", x, axis=op.axis),
    ops.Contract: _contract,
    ops.Conv: _conv,
    ops.Gather: _gather,
    ops.Scatter: _scatter,
    ops.Fold: _fold,
    ops.Sort: _sort,
    ops.FFT: _fft,
    ops.Random: _random,
    ops.ShiftLeft: _shifted,
    ops.ShiftRight: _shifted,
}


def to_onnx(model: Model) -> onnx.ModelProto:
    """The model's `run` program with its weights as they are now; inputs and outputs keep their names, but an output with an input's name, where ONNX
    knows one value of a name: that is NAME_out. UnsupportedOp names every op that has no form in ONNX."""
    lowered = lower(model, "run", target_of("reference"))
    with lowered.context, lowered.location:
        program = program_of(lowered.module)
        w = Writer()
        inputs = []
        results = [(slot, value) for slot, value in results_of(program) if slot.role == "output"]
        taken = {slot.name for slot, _ in results}
        for slot, value in zip(arguments_of(program), program.entry_block.arguments):
            w.names[value] = slot.name
            if slot.role == "input":
                inputs.append(helper.make_tensor_value_info(slot.name, of_dtype(slot.type.dtype).code, slot.type.shape))
            elif slot.role in ("param", "state"):
                w.names[value] = f"{slot.name}.kept" if slot.name in taken else slot.name
                w.constants.append(numpy_helper.from_array(np.asarray(model.params[slot.name]), w.names[value]))
            else:  # the step and what draws depend on: 0 where nothing is trained
                w.names[value] = w.constant(np.zeros((), slot.type.dtype.numpy))
        for op in program.entry_block.operations:
            if not isinstance(op, func.ReturnOp):
                w.op(op)
        if w.gaps:
            places = [s for op in w.gaps.values() for s in spans_of(op.location)][:1]
            raise UnsupportedOp(f"{', '.join(name.removeprefix('nn.') for name in w.gaps)} cannot be exported to ONNX", places)
        outputs = []
        for slot, value in results:
            name = f"{slot.name}_out" if any(port.name == slot.name for port in inputs) else slot.name
            w.nodes.append(helper.make_node("Identity", [w.names[value]], [name]))
            outputs.append(helper.make_tensor_value_info(name, of_dtype(slot.type.dtype).code, slot.type.shape))
        graph = _needed(helper.make_graph(w.nodes, model.name, inputs, outputs, w.constants))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="dslc", ir_version=9)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _needed(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Without the nodes and constants that no output depends on: ONNX's random operators take no seed."""

    def read(node: onnx.NodeProto) -> set[str]:
        inner = [n for a in node.attribute if a.HasField("g") for n in a.g.node]
        return set(node.input).union(*(read(n) for n in inner))

    live = {port.name for port in graph.output}
    kept = []
    for node in reversed(graph.node):
        if live & set(node.output):
            live |= read(node)
            kept.append(node)
    constants = [c for c in graph.initializer if c.name in live]
    return helper.make_graph(kept[::-1], graph.name, graph.input, graph.output, constants)


def export(model: Model, out: Path) -> Path:
    """Writes `to_onnx` of a model to a file."""
    if out.suffix != ".onnx":
        raise DataError(f"export writes an .onnx file, this is {out}")
    out.write_bytes(to_onnx(model).SerializeToString())
    return out


__all__ = ["export", "to_onnx"]
