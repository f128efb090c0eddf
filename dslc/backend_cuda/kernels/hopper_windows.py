"""Hopper products of operands that the copy engine reads in boxes (`windows`): the loads of a stage, and where a tile's rows and columns belong.

A lane of the loading warp stands for a unit of rows or columns of the tile: it copies that unit by the terms of a step, so that the coordinates of
all are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from dslc.ir.contractions import COLUMNS, ROWS, TERMS

from ..gemm_schedule import HopperSchedule, Sizes
from ..stage import FunctionWriter
from ..windows import UNIT, Axis, Walk, Window, Windows

LINE = 128  # bytes


def stage_bytes(windows: Windows, s: HopperSchedule) -> int:
    """What the copies of a stage write."""
    return LINE * sum(n // UNIT * side.lines for n, side in zip((s.rows, s.columns), windows.sides))


def clear_stages(w: FunctionWriter, windows: Windows, s: HopperSchedule) -> None:
    """Lines that no copy writes are zeros from the start on: as terms they add nothing."""
    if all(side.lines == UNIT for side in windows.sides):
        return
    with w.block(f"for (int p = threadIdx.x; p < {s.stages * s.stage_bytes // 16}; p += 384)"):
        w.line("reinterpret_cast<uint4*>(memory)[p] = make_uint4(0, 0, 0, 0);")
    w.line("fence_shared_async();")


def places_of_tile(w: FunctionWriter, windows: Windows, s: HopperSchedule) -> None:
    """Behind a tile's `row`, `column`, `batch` and `first`: where the lane's unit begins, `r` and `c` with the number of an index of the domain, and
    where the terms do, `t`."""
    of_rows = s.rows // UNIT
    for c, name, unit in ((ROWS, "r", f"row / {UNIT} + lane"), (COLUMNS, "c", f"column / {UNIT} + lane - {of_rows}"), (TERMS, "t", "first")):
        walk, below = windows.walks[c], windows.walks[c].units
        if walk.dims:
            w.line(f"const int {name}_unit = {unit};")
        for k, (d, count, box) in enumerate(zip(walk.dims, walk.counts, walk.box)):
            below //= count
            part = f"{name}_unit" + (f" / {below}" if below > 1 else "") + (f" % {count}" if k else "")
            w.line(f"{'int' if c == TERMS else 'const int'} {name}{d} = {f'({part}) * {box}' if box > 1 else part};")
    below = prod(n for _, n in windows.batch)
    for k, (d, n) in enumerate(windows.batch):
        below //= n
        w.line(f"const int b{d} = batch{f' / {below}' if below > 1 else ''}{f' % {n}' if k else ''};")


def copies_of_stage(w: FunctionWriter, windows: Windows, s: HopperSchedule, maps: Sequence[str]) -> None:
    """The lane's copy into the stage at `tile`, and the terms of the next step."""
    names = {d: f"{name}{d}" for c, name in ((ROWS, "r"), (COLUMNS, "c"), (TERMS, "t")) for d in windows.walks[c].dims}
    names |= {d: f"b{d}" for d, _ in windows.batch}
    first, last = s.rows // UNIT, (s.rows + s.columns) // UNIT
    for side, tensor_map, test in zip(windows.sides, maps, (f"if (lane < {first})", f"else if (lane < {last})")):
        w.line(f"{test} copy_tile(tile, &{tensor_map}, full + stage, {_coordinates(side, names)});")
    walk = windows.walks[TERMS]
    for k in reversed(range(len(walk.dims))):
        d, end = walk.dims[k], walk.counts[k] * walk.box[k]
        w.line(f"t{d} += {walk.box[k]};")
        if k:
            w.line(f"if (t{d} == {end}) {{")
            w.line(f"t{d} = 0;")
    for _ in walk.dims[1:]:
        w.line("}")


def _coordinates(side: Window, names: dict[int, str]) -> str:
    places = [_coordinate(a, names) for a, _, _ in side.axes]
    return ", ".join(places if len(places) > 1 else [*places, "0"])


def _coordinate(axis: Axis, names: dict[int, str]) -> str:
    parts = [names[d] if f == 1 else f"{f} * {names[d]}" for d, f in axis.factors]
    return " + ".join([*parts, *([str(axis.start)] if axis.start or not parts else [])]).replace("+ -", "- ")


def place_in(w: FunctionWriter, windows: Windows | None, s: HopperSchedule, sizes: Sizes, c: int, place: str, name: str) -> list[str]:
    """Declares `name`, the position in its class (ROWS or COLUMNS) of what is at `place` of the tiles; the tests of whether there is such a one."""
    tile = s.rows if c == ROWS else s.columns
    if windows is not None:
        return _position(w, windows.walks[c], place, name, tile)
    w.line(f"const int {name} = {place};")
    return [f"{name} < {sizes[c]}"] if sizes[c] % tile else []


def _position(w: FunctionWriter, walk: Walk, place: str, name: str, tile: int) -> list[str]:
    inner, unit, tests = walk.lines, walk.units, []
    if len(walk.dims) == 1 and walk.box[0] == UNIT:
        w.line(f"const int {name} = {place};")
        return [f"{name} < {walk.extents[0]}"] if walk.extents[0] % tile else []
    w.line(f"const int {name}_place = {place};")
    w.line(f"const int {name}_unit = {name}_place / {UNIT}, {name}_line = {name}_place % {UNIT};")
    if walk.lines < UNIT:
        tests.append(f"{name}_line < {walk.lines}")
    parts = []
    for k, (d, n, count, box) in enumerate(zip(walk.dims, walk.extents, walk.counts, walk.box)):
        unit, inner = unit // count, inner // box
        of_unit = f"{name}_unit{f' / {unit}' if unit > 1 else ''}{f' % {count}' if k else ''}"
        of_line = f"{name}_line{f' / {inner}' if inner > 1 else ''} % {box}" if box > 1 else ""
        w.line(f"const int {name}{d} = {f'({of_unit}) * {box} + {of_line}' if of_line else of_unit};")
        if k == 0 or n % box:
            tests.append(f"{name}{d} < {n}")
        below = prod(walk.extents[k + 1 :])
        parts.append(f"{name}{d}{f' * {below}' if below > 1 else ''}")
    w.line(f"const int {name} = {' + '.join(parts) or '0'};")
    return tests
