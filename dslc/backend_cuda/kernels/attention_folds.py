"""What a thread does with its scores of a stream, `rows` x `columns` in registers: pointwise work, running maxima and sums, weights of products.

Running maxima correct the sums made with them (online softmax). The scores s, the folds o, the weights and the factors that correct them are arrays
of registers, one a source or sink, indexed by row i, and by column j or feature f.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dslc.core.dtypes import BOOL, FLOAT32
from dslc.ir.streams import Sink, Stream, folds_under
from dslc.ir.trace import Given, Node, invariant, survey

from ..pull import Point
from ..scalars import Val
from ..stage import FunctionWriter, Request, index_type
from ..types import computed_type


class Folds:
    """The part of a stream's function that is the same for all ways to lay it out. What the layout says: which row and column are i and j, which
    lanes share a row, where weights go."""

    def __init__(self, request: Request, stream: Stream, rows: int, columns: int, suffix: str = "") -> None:
        self.w, self.s = FunctionWriter(request, suffix), stream
        self.trace, self.sizes = stream.trace, stream.sizes
        self.rows, self.columns = rows, columns
        self.integer = index_type(*(t.size for t in (*request.operands, *request.results)))
        self.place: list[str] = []  # the point of the batch
        self.leaders = [k for k, s in enumerate(stream.sinks) if s.kind in ("max", "min")]
        self.followers = [k for k in range(len(stream.sinks)) if k not in self.leaders]
        self.hoisted: dict[int, Val] = {}  # of nodes that nothing moves, by id
        self.by_row: dict[int, tuple[str, Node]] = {}  # arrays of what moves with x alone
        self.by_column: dict[int, tuple[str, Node]] = {}  # arrays of what moves with y alone

    # ---- what a layout says

    def row(self) -> str:
        """Writes the index of row i, of the last row where there is none; its name."""
        raise NotImplementedError

    def column(self) -> tuple[str, str]:
        """Writes the index of column j, of the last column where there is none; its name, and the test that there is one, or ""."""
        raise NotImplementedError

    def of_lanes(self, kind: str, text: str) -> str:
        """The fold, "max", "min" or "sum", over the lanes that share a row."""
        raise NotImplementedError

    def weight(self, k: int) -> str:
        """The place of product k's weight at (i, j)."""
        raise NotImplementedError

    def features(self, k: int) -> int:
        """Registers of a row in which a thread holds features of product k."""
        raise NotImplementedError

    # ---- values at points

    def _dims(self, x: str, y: str, more: dict[int, str] | None = None) -> list[str]:
        dims = [*self.place, x, y] + ["0"] * (len(self.sizes) - self.s.y - 1)
        for k, text in (more or {}).items():
            dims[k] = text
        return dims

    def _point(self, dims: Sequence[str], known: dict[int, Val] | None = None, given: Any = None) -> Point:
        return Point(self.w, self.trace, self.w.operand, dims, given, {**self.hoisted, **(known or {})}, self.integer)

    def _wide(self, point: Point, node: Node) -> str:
        v = point.value(node)
        return point.s.cast(v, v.dtype, FLOAT32).text

    # ---- state, and what is computed once

    def _declare(self) -> None:
        """The running folds of every row."""
        for k, sink in enumerate(self.s.sinks):
            if sink.kind == "contract":
                self.w.line(f"float o{k}[{self.rows}][{self.features(k)}] = {{}};")
                continue
            self.w.line(f"float o{k}[{self.rows}];")
            start = {"max": "-infinity_f32()", "min": "infinity_f32()", "sum": "0.0f"}[sink.kind]
            with self.w.unrolled("i", self.rows):
                self.w.line(f"o{k}[i] = {start};")

    def _hoist(self) -> None:
        """What is read from memory and does not move with the stream, once; arrays for what is read once a turn."""
        roots = [s.value for s in self.s.sinks]
        x, y = self.s.x, self.s.y
        fixed = [n for n in invariant(self.trace, roots, {x, y}) if self._loads(n)]
        point = self._point(self._dims("0", "0"))
        self.hoisted |= {id(n): point.value(n) for n in fixed}
        for node in invariant(self.trace, roots, {x}):
            if self._loads(node) and id(node) not in self.hoisted:
                self.by_column[id(node)] = (self.w.fresh("of_column"), node)
        for node in invariant(self.trace, roots, {y}):
            if self._loads(node) and id(node) not in self.hoisted and not folds_under(self.trace, node):
                self.by_row[id(node)] = (self.w.fresh("of_row"), node)
        self._arrays(self.by_row, "i", self.rows)

    def _loads(self, node: Node) -> bool:
        return bool(survey(self.trace, [node]).reads)

    def _arrays(self, arrays: dict[int, tuple[str, Node]], turn: str, count: int) -> None:
        """Writes the values of nodes for all rows, or all columns, of a thread."""
        w = self.w
        for name, node in arrays.values():
            w.line(f"{computed_type(node.dtype)} {name}[{count}];")
        if arrays:
            with w.unrolled(turn, count):
                point = self._point(self._dims(self.row(), "0") if turn == "i" else self._dims("0", self.column()[0]))
                for name, node in arrays.values():
                    w.line(f"{name}[{turn}] = {point.value(node).text};")

    # ---- the scores of one turn

    def _given(self, running: dict[int, str]) -> Any:
        """Answers for scores at (i, j) and for running folds of row i."""

        def given(node: Given) -> Val:
            kind, number = node.key
            text = f"s{number}[i][j]" if kind == "source" else running.get(number, f"o{number}[i]")
            return Val(text, node.dtype)

        return given

    def _known_of_row(self) -> dict[int, Val]:
        return {k: Val(f"{name}[i]", node.dtype) for k, (name, node) in self.by_row.items()}

    def _known(self, roots: Sequence[Node], x: str, given: Any) -> dict[int, Val]:
        """What is known in the loop over a row's columns: values that move with x alone are written before it."""
        known = self._known_of_row()
        before = self._point(self._dims(x, "0"), known, given)
        for node in invariant(self.trace, roots, {self.s.y}):
            if id(node) not in known:
                known[id(node)] = before.value(node)
        return known | {k: Val(f"{name}[j]", node.dtype) for k, (name, node) in self.by_column.items()}

    def _lead(self) -> None:
        """Running maxima and minima, and the factors that correct what was summed with the old ones; their operands stay in registers."""
        w = self.w
        if not self.leaders:
            return
        correcting = {s.leader: s.shift for s in self.s.sinks if s.leader is not None and s.shift is not None}
        for k in self.leaders:
            w.line(f"float t{k}[{self.rows}][{self.columns}];")
            if k in correcting:
                w.line(f"float factor{k}[{self.rows}];")
        roots = [self.s.sinks[k].value for k in self.leaders]
        with w.unrolled("i", self.rows):
            x = self.row()
            known = self._known(roots, x, self._given({}))
            for k in self.leaders:
                w.line(f"float best{k} = {'-' if self.s.sinks[k].kind == 'max' else ''}infinity_f32();")
            with w.unrolled("j", self.columns):
                y, test = self.column()
                point = self._point(self._dims(x, y), known, self._given({}))
                for k in self.leaders:
                    value, worst = self._wide(point, self.s.sinks[k].value), f"{'-' if self.s.sinks[k].kind == 'max' else ''}infinity_f32()"
                    w.line(f"t{k}[i][j] = {f'{test} ? {value} : {worst}' if test else value};")
                    w.line(f"best{k} = {self.s.sinks[k].kind}imum(best{k}, t{k}[i][j]);")
            for k in self.leaders:
                kind = self.s.sinks[k].kind
                w.line(f"const float next{k} = {kind}imum(o{k}[i], {self.of_lanes(kind, f'best{k}')});")
                if k in correcting:
                    old, new = (self._shift(correcting[k], k, text, x) for text in (f"o{k}[i]", f"next{k}"))
                    w.line(f"factor{k}[i] = o{k}[i] == -infinity_f32() ? 0.0f : expf({old} - {new});")
                w.line(f"o{k}[i] = next{k};")

    def _shift(self, node: Node, k: int, text: str, x: str) -> str:
        finite = self.w.value("finite", "float", f"finite_maximum({text})")
        return self._wide(self._point(self._dims(x, "0"), self._known_of_row(), self._given({k: finite})), node)

    def _follow(self) -> None:
        """Sums, and the weights of the products."""
        w, sinks = self.w, self.s.sinks
        roots = [sinks[k].value for k in self.followers]
        if not roots:
            return
        with w.unrolled("i", self.rows):
            x = self.row()
            running = {}
            for k in self.leaders:
                running[k] = w.value("finite", "float", f"finite_maximum(o{k}[i])") if sinks[k].kind == "max" else f"o{k}[i]"
            for k in self.followers:
                self._correct(k, sinks[k])
            known = self._known(roots, x, self._given(running))
            kept = {id(sinks[k].value): Val(f"t{k}[i][j]", sinks[k].value.dtype) for k in self.leaders}
            with w.unrolled("j", self.columns):
                y, test = self.column()
                point = self._point(self._dims(x, y), known | kept, self._given(running))
                for k in self.followers:
                    value = self._wide(point, sinks[k].value)
                    if test:
                        value = point.s.select(Val(test, BOOL), Val(value, FLOAT32), Val("0.0f", FLOAT32)).text
                    w.line(f"{self.weight(k)} = {value};" if sinks[k].kind == "contract" else f"o{k}[i] += {value};")

    def _correct(self, k: int, sink: Sink) -> None:
        if sink.leader is None:
            return
        if sink.kind != "contract":
            self.w.line(f"o{k}[i] *= factor{sink.leader}[i];")
            return
        with self.w.unrolled("f", self.features(k)):
            self.w.line(f"o{k}[i][f] *= factor{sink.leader}[i];")
