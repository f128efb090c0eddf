"""Functions that need nothing of each other as one launch: each has blocks of its own.

Equal functions share their text, and differ in pointers: their blocks find out which of them they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from .arch import Arch
from .stage import Function, Parameter
from .text import Writer

APART = '{"Apart": {}}'  # the schedule of functions that have launches of their own after all
_BLOCK = re.compile(r"\bblockIdx\.x\b")
_TOGETHER = re.compile(r"sync|shared")
_ELSEWHERE = re.compile(r"\b(gridDim|blockIdx\.[yz])\b")


def joins(a: Function, b: Function) -> bool:
    """Whether two functions can share a launch: blocks numbered along one axis, that read what they are given by pointers; of the same threads, or of
    fewer that need nothing of each other."""
    simple = all(f.grid[1:] == (1, 1) and not _ELSEWHERE.search(f.text) and not any(p.tensor_map for p in f.parameters) for f in (a, b))
    smaller = min((a, b), key=lambda f: f.block[0])
    apart = a.block[1:] == b.block[1:] == (1, 1) and not smaller.ahead and not smaller.waits and not _TOGETHER.search(smaller.text)
    return simple and (a.block == b.block or apart)


def joined(symbol: str, functions: Sequence[Function], arch: Arch) -> tuple[Function, list[int]]:
    """One function for several, and in which order they stand in it: its parameters are those of the first, then those of the second, ..."""
    alike: dict[str, list[int]] = {}
    for k, f in enumerate(functions):
        alike.setdefault(f.symbol, []).append(k)
    w = Writer()
    parameters: list[Parameter] = []
    first, blocks, block = 0, sum(f.grid[0] for f in functions), max(f.block for f in functions)
    for members in alike.values():
        f, names = functions[members[0]], []
        for k in members:
            names.append([f"f{k}_{p.name}" for p in f.parameters])
            parameters += [replace(p, name=name) for p, name in zip(functions[k].parameters, names[-1])]
        end = first + len(members) * f.grid[0]
        test = f"if (blockIdx.x < {end}u)" if end < blocks else ""
        with w.block(" ".join(filter(None, ("else" if first else "", test)))):
            _part(w, f, names, first, block, arch)
        first = end
    words = " beside ".join(f"{len(members)} x {functions[members[0]].symbol}: {functions[members[0]].schedule}" for members in alike.values())
    shared, beside = max(f.shared_bytes for f in functions), min(f.blocks_per_sm for f in functions)
    whole = Function(symbol, tuple(parameters), w.text(), (blocks, 1, 1), block, shared, beside, words, waits=True)
    return whole, [k for members in alike.values() for k in members]


def _part(w: Writer, f: Function, names: Sequence[Sequence[str]], first: int, threads: tuple[int, int, int], arch: Arch) -> None:
    """The blocks of equal functions, from block `first` on, in a launch with blocks of so many threads."""
    block = f"blockIdx.x - {first}u" if first else "blockIdx.x"
    if len(names) > 1:
        w.line(f"const unsigned which = ({block}) / {f.grid[0]}u;")
        block = f"({block}) % {f.grid[0]}u"
    w.line(f"const unsigned block = {block};")
    for n, p in enumerate(f.parameters):
        chosen = names[-1][n]
        for k in range(len(names) - 2, -1, -1):
            chosen = f"which == {k}u ? {names[k][n]} : {chosen}"
        w.line(f"{p.type} {p.name} = {chosen};")
    waits = ["    wait_for_launches_before();"] if arch.launches_overlap and not f.waits else []
    needed = [f"    if (threadIdx.x >= {f.block[0]}u) return;"] if f.block < threads else []
    for line in "\n".join(filter(None, [f.ahead, *waits, *needed, f.text])).splitlines():
        w.line(_BLOCK.sub("block", line.removeprefix("    ")))
