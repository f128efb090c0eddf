"""The source text of a program: a comment above every kernel says what it computes, how, and what it moves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dslc.ir.trace import Body
from dslc.ir.types import type_of

from .arch import Arch
from .stage import Function

MOST_EQUATIONS = 24  # lines of a kernel's comment
NARROW = re.compile(r"\b(__half|__nv_\w+|round_to_\w+)\b")


@dataclass
class Unit:
    """A distinct kernel of the program, for its text: its functions, and what is said of them."""

    name: str
    kind: str
    role: str
    lines: tuple[str, ...]
    body: Body | None
    flops: int
    bytes: int
    includes: Sequence[str]
    functions: list[Function] = field(default_factory=list)
    key: str = ""  # as of `core.executable.Kernel`
    tuned: str = ""
    replaced: bool = False  # its schedule stands for one that spills
    slow: str = ""  # why its code is slow, where no other is less so
    first: str = ""  # the function that its work is said to be done by
    members: Sequence[tuple[Unit, Function]] = ()  # what shares its launch


@dataclass(frozen=True)
class Printed:
    """The whole text, and for each function its own part with the headers it needs: parts compile alone, several at once."""

    whole: str
    prelude: str
    functions: tuple[tuple[str, str], ...]  # symbol, text


def printed(name: str, units: Sequence[Unit], arch: Arch) -> Printed:
    """The text of a program."""
    parts = [(f.symbol, function_text(unit, f, k == 0, arch)) for unit in units for k, f in enumerate(unit.functions)]
    body = "\n\n".join(text for _, text in parts)
    includes = ["math.cuh", "memory.cuh", *(["launch.cuh"] if arch.launches_overlap else [])]
    if NARROW.search(body):
        includes.insert(0, "narrow.cuh")
    if "philox(" in body:
        includes.append("philox.cuh")
    if "nearest_tf32(" in body:
        includes.append("tf32.cuh")
    includes += [i for i in dict.fromkeys(i for unit in units for i in unit.includes) if i not in includes]
    prelude = "".join(f'#include "device/{i}"\n' for i in includes)
    head = f"// {name}: {len(parts)} kernels for {arch.name}.\n\n"
    return Printed(f"{head}{prelude}\n{body}\n", prelude, tuple(parts))


def function_text(unit: Unit, function: Function, first: bool, arch: Arch) -> str:
    """A function under its comment. Where launches overlap, all of it but prefetches comes behind the wait for those before."""
    if unit.members:
        members = {f.symbol: (u, f) for u, f in unit.members}
        comment = [line for u, f in members.values() for line in _comment(u, f, f.symbol == u.first)]
    else:
        comment = _comment(unit, function, first)
    if first and unit.slow:
        comment.append(f"// {unit.slow}: no schedule of it has less of that")
    block = function.block[0] * function.block[1] * function.block[2]
    bounds = f"__launch_bounds__({block}, {function.blocks_per_sm})"
    parameters = ", ".join(f"{p.type} {p.name}" for p in function.parameters)
    head = f'extern "C" __global__ void {bounds} {function.symbol}({parameters}) {{'
    body = [function.ahead, function.text]
    if arch.launches_overlap:
        waiting = "" if function.waits else "    wait_for_launches_before();"
        body = ["    let_next_launch_start();", function.ahead, waiting, function.text]
    return "\n".join([*comment, head, *filter(None, body), "}"])


def _comment(unit: Unit, function: Function, first: bool) -> list[str]:
    if not first:
        return [f"// {unit.role}, the next step of {unit.name}: {function.schedule}"]
    where = f" ({', '.join(unit.lines[:6])}{', ...' if len(unit.lines) > 6 else ''})" if unit.lines else ""
    out = [f"// {unit.role}{where}"]
    if unit.body is not None:
        equations = describe(unit.body)
        out += [f"//   {e}" for e in equations[:MOST_EQUATIONS]]
        if len(equations) > MOST_EQUATIONS:
            out.append(f"//   ... and {len(equations) - MOST_EQUATIONS} more")
        why = " (tuned)" if unit.tuned else " (another one spills)" if unit.replaced else ""
        out.append(f"// {unit.kind}: {function.schedule}{why}; {unit.bytes:,} bytes, {unit.flops:,} operations")
    return out


def describe(body: Body) -> list[str]:
    """The ops of a kernel as equations over its operands a0, a1, ... and results y0, y1, ..."""
    names: dict[Any, str] = {v: f"a{k}" for k, v in enumerate(body.operands)}
    results = {v: f"y{k}" for k, v in reversed(list(enumerate(body.results)))}
    out = []
    for v, (op, _) in body.makers.items():
        names[v] = results.get(v, f"t{len(names) - len(body.operands)}")
        arguments = ", ".join(names.get(o, "?") for o in op.operands)
        extra = ""
        if op.operation.name == "nn.constant":
            extra = str(op.uniform)
        elif op.operation.name in ("nn.reduce", "nn.compare", "nn.random", "nn.cumulative", "nn.argreduce"):
            extra = f", {op.kind if hasattr(op, 'kind') else op.predicate}"
        out.append(f"{names[v]} = {op.operation.name[3:]}({arguments}{extra}): {type_of(v)}")
    return out
