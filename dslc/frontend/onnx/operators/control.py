"""If, Loop and Scan: decided and unrolled at compile time where that is known, else both branches, or a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..call import Call
from ..graph import Graph
from ..loops import scan
from ..run import MISSING
from ..table import operator
from ..values import Value, axis_of, broadcast_to, concat, constant, expand_axes, reshape, slice_axis, transpose
from .elementwise import where_any

MOST_UNROLLED = 16  # turns of a loop that are written out
MOST_TURNS = 1 << 22


def _run(call: Call, graph: Graph, inputs: Sequence[Any], path: str) -> list[Any]:
    """The outputs of an inner graph; those behind a gap, which is reported in the end, are missing."""
    return call.run.inside(graph, call.scope, inputs, f"{call.node.name or call.node.outputs[0]}/{path}")


@operator("If", note="a condition known only at run time computes both branches, which must agree in types and shapes")
def _if(call: Call, condition: Value) -> tuple[Any, ...]:
    known = call.known(condition)
    if known is not None:
        name = "then_branch" if known.reshape(-1)[0] else "else_branch"
        return tuple(_run(call, call.graph(name), [], name))
    both = [_run(call, call.graph(name), [], name) for name in ("then_branch", "else_branch")]
    out = []
    for a, b in zip(*both, strict=True):
        if a is MISSING or b is MISSING:
            out.append(MISSING)
            continue
        if not isinstance(a, Value) or not isinstance(b, Value) or a.type != b.type or a.elem is not b.elem:
            call.static(condition, "condition, as the branches differ in type or shape,")
        out.append(where_any(broadcast_to(reshape(condition, ()), a.shape), a, b))
    return tuple(out)


@operator("Loop", note="the number of turns must be known at compile time")
def _loop(call: Call, trip: Value | None, condition: Value | None, *starts: Any) -> tuple[Any, ...]:
    body = call.graph("body")
    most = int(call.static(trip, "number of turns").reshape(-1)[0]) if trip is not None else None
    if most is not None and most > MOST_TURNS:
        raise call.gap(f"a loop of {most} turns is not supported")
    if condition is not None and not call.static(condition, "condition").reshape(-1)[0]:
        most = 0
    carried: list[Any] = list(starts)
    emitted: list[list[Any]] = [[] for _ in body.outputs[1 + len(starts) :]]
    count = 0
    while most is None or count < most:
        if count == 2 and most is not None and most > MOST_UNROLLED and all(isinstance(v, Value) for v in carried) and _always(body):
            return _scanned(call, body, most, carried, emitted, count)
        if count > 10_000:
            raise call.gap("a loop of more than 10000 turns whose end is known only by running it")
        again, *rest = _run(call, body, [constant(np.int64(count)), constant(np.bool_(True)), *carried], str(count))
        count += 1
        carried = rest[: len(starts)]
        for stack, value in zip(emitted, rest[len(starts) :]):
            stack.append(value)
        if again is MISSING or MISSING in rest:
            return tuple(MISSING for _ in range(call.count))
        if not call.static(again, "condition").reshape(-1)[0]:
            break
    return (*carried, *(_stacked(call, stack, port) for stack, port in zip(emitted, body.outputs[1 + len(starts) :])))


def _stacked(call: Call, values: list[Value], port: Any) -> Value:
    if values:
        return concat([expand_axes(v, [0]) for v in values], 0)
    if port.elem is None or port.axes is None or not all(isinstance(n, int) for n in port.axes):
        raise call.gap("a loop of no turns that stacks results of unknown shapes")
    return constant(np.zeros((0, *port.axes), port.elem.carrier.numpy), port.elem)


def _always(body: Graph) -> bool:
    """The condition that the body gives is its own input, or a constant: only the number of turns ends the loop."""
    name = body.outputs[0].name
    made = {n.outputs[0]: n for n in body.nodes if n.outputs}
    while name in made and made[name].op == "Identity":
        name = made[name].inputs[0]
    return name == body.inputs[1].name or name in body.constants or (name in made and made[name].op == "Constant")


def _scanned(call: Call, body: Graph, trip: int, carried: list[Value], emitted: list[list[Value]], done: int) -> tuple[Value, ...]:
    """The turns from `done` on as a scan."""
    counter = constant(np.arange(done, trip, dtype=np.int64))

    def turn(slices: list[Value], carries: list[Value]) -> tuple[list[Value], list[Value]]:
        _, *rest = _run(call, body, [slices[0], constant(np.bool_(True)), *carries], "turn")
        if MISSING in rest:
            raise call.gap("its body cannot be imported")
        return rest[: len(carries)], rest[len(carries) :]

    last, stacks = scan(call, trip - done, carried, [counter], turn)
    first = [concat([expand_axes(v, [0]) for v in stack], 0) for stack in emitted]
    return (*last, *(concat([a, b], 0) for a, b in zip(first, stacks)))


@operator("Scan")
def _scan(call: Call, *inputs: Value) -> tuple[Value, ...]:
    if call.version >= 9:
        return _scan_of(call, list(inputs))
    lengths, *rest = inputs
    if lengths is not None:
        raise call.gap("lengths of sequences are not supported")
    rows = []
    for row in range(rest[0].shape[0]):
        rows.append(_scan_of(call, [reshape(slice_axis(v, 0, row, 1), v.shape[1:]) for v in rest]))
    return tuple(concat([expand_axes(r[k], [0]) for r in rows], 0) for k in range(len(rows[0])))


def _scan_of(call: Call, inputs: list[Value]) -> tuple[Value, ...]:
    body, count = call.graph("body"), call.integer("num_scan_inputs")
    starts, stacked = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    old = call.version < 9
    in_axes = [axis_of(a, v.rank) for a, v in zip(call.ints("scan_input_axes", [0] * count), stacked)]
    turned = call.ints("directions" if old else "scan_input_directions", [0] * count)
    outputs = len(body.outputs) - len(starts)
    out_axes, out_turned = call.ints("scan_output_axes", [0] * outputs), call.ints("scan_output_directions", [0] * outputs)
    given = []
    for v, axis, back in zip(stacked, in_axes, turned):
        v = transpose(v, [axis, *[k for k in range(v.rank) if k != axis]])
        given.append(slice_axis(v, 0, v.shape[0] - 1, v.shape[0], -1) if back else v)
    if len({v.shape[0] for v in given}) > 1:
        raise call.misfit(f"a scan over {', '.join(map(str, stacked))}")

    def turn(slices: list[Value], carries: list[Value]) -> tuple[list[Value], list[Value]]:
        made = _run(call, body, [*carries, *slices], "turn")
        if MISSING in made:
            raise call.gap("its body cannot be imported")
        return made[: len(carries)], made[len(carries) :]

    last, stacks = scan(call, given[0].shape[0], starts, given, turn)
    out = []
    for v, axis, back in zip(stacks, out_axes, out_turned):
        v = slice_axis(v, 0, v.shape[0] - 1, v.shape[0], -1) if back else v
        at = axis_of(axis, v.rank)
        out.append(transpose(v, [*range(1, at + 1), 0, *range(at + 1, v.rank)]))
    return (*last, *out)
