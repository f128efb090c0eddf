"""report.html: one page about a program, for people: parameters by module, kernels by line of the model file, memory over time."""

from __future__ import annotations

import html
from collections import defaultdict
from pathlib import Path
from typing import Any

from .compiler import compile_program, family_of
from .core.errors import Error
from .core.executable import Executable
from .measuring import Profile, by_kernel, by_line, line_text, own_lines
from .model import Model
from .recipes import OF_ANY_LENGTH

_STYLE = """
:root { color-scheme: light dark; } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #8888; font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .92em; } .bar { background: #4a8; height: .7em; display: inline-block; vertical-align: middle; }
"""


def write_report(model: Model, target: str, file: Path, program: str = "run") -> None:
    """Writes the page of one program; it needs no network and no script."""
    executable = compile_program(model, program, target)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(model, executable), encoding="utf-8")


def page(model: Model, executable: Executable, profile: Profile | None = None) -> str:
    """The page's text; with a profile of the program also where its time goes."""
    checked = model.checked
    total = sum(p.type.size for p in checked.parameters)
    flops, moved = _work(executable)
    ports = sum(p.bytes for p in executable.ports)
    facts = [
        ("program", f"{executable.program} on {executable.target}"),
        ("parameters", f"{total:,} in {len(checked.parameters)} tensors, {_bytes(sum(p.type.bytes for p in checked.parameters))}"),
        ("work", f"{flops / 1e9:,.3g} GFLOP, {_bytes(moved)} moved at least"),
        ("memory", f"{_bytes(executable.arena_bytes)} arena for intermediates, {_bytes(executable.scratch_bytes)} scratch a thread"),
        ("in all", f"{_bytes(executable.arena_bytes + ports)} with parameters, states, inputs and results"),
        *([(label, html.escape(executable.notes[k])) for k, label in (("memory", "budget"), ("chunks", "losses")) if k in executable.notes]),
        *([("lengths", html.escape(_lengths(model, executable.program)))] if checked.bounds and executable.program in OF_ANY_LENGTH else []),
        ("kernels", f"{len(executable.kernels)} distinct, {len(executable.launches)} launches"),
        ("code", _bytes(len(executable.code))),
    ]
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(model.name)}</title><style>{_STYLE}</style><h1>{html.escape(model.name)}</h1>",
        _table(["", ""], facts),
        *(_times(model, profile) if profile else []),
        "<h2>Parameters by module</h2>",
        _table(["module", "parameters", "tensors"], _modules(checked.parameters), numeric={1, 2}),
        "<h2>Kernels</h2>",
        _table(["kernel", "kind", "runs", "MFLOP", "MB", "schedule", "lines"], _kernels(executable), numeric={2, 3, 4}),
        "<h2>Work by line</h2>",
        _table(["line", "", "MFLOP", ""], _lines(model, executable), numeric={2}),
    ]
    return "\n".join(parts)


def _lengths(model: Model, program: str) -> str:
    """Which programs there may be for other lengths, or why there are none."""
    try:
        return "; ".join(family_of(model, program).told())
    except Error as error:
        return error.message


def _work(executable: Executable) -> tuple[int, int]:
    kernels = executable.kernels
    return sum(kernels[x.kernel].flops for x in executable.launches), sum(kernels[x.kernel].bytes for x in executable.launches)


def _modules(parameters: list[Any]) -> list[tuple[str, str, str]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for p in parameters:
        groups[p.path.rsplit(".", 1)[0] if "." in p.path else "(model)"].append(p.type.size)
    return [(name, f"{sum(sizes):,}", str(len(sizes))) for name, sizes in groups.items()]


def _kernels(executable: Executable) -> list[tuple[str, ...]]:
    runs: dict[int, int] = defaultdict(int)
    for launch in executable.launches:
        runs[launch.kernel] += 1
    rows: list[tuple[str, ...]] = []
    for k, kernel in enumerate(executable.kernels):
        lines = ", ".join(dict.fromkeys(_short(x) for x in kernel.lines))
        chosen = f"tuned: <code>{html.escape(kernel.schedule)}</code>" if kernel.schedule else kernel.chosen
        rows.append((kernel.name, kernel.kind, str(runs[k]), f"{kernel.flops / 1e6:,.2f}", f"{kernel.bytes / 1e6:,.2f}", chosen, lines))
    return sorted(rows, key=lambda row: -float(row[3].replace(",", "")) * int(row[2]))


def _times(model: Model, profile: Profile) -> list[str]:
    """Time by kernel, with shares of what the machine does at most, and by line."""
    total = sum(t.seconds for t in profile.launches) or 1.0
    kernels, lines = [], []
    for r in by_kernel(profile):
        rates = (
            f"{r.flops_rate / 1e9:,.1f}",
            f"{r.flops_rate / profile.peak_flops:.0%}",
            f"{r.bytes_rate / 1e9:,.1f}",
            f"{r.bytes_rate / profile.peak_bytes:.0%}",
        )
        kernels.append(
            (r.name, str(r.runs), f"{r.seconds * 1e3:,.3f}", _bar(r.seconds / total), *rates, ", ".join(dict.fromkeys(map(_short, r.lines))))
        )
    for place, seconds in by_line(model, profile):
        lines.append((_short(place), _text(model, place), f"{seconds * 1e3:,.3f}", _bar(seconds / total)))
    peak = f"{profile.peak_flops / 1e9:,.0f} GFLOP/s in a product of matrices, {profile.peak_bytes / 1e9:,.1f} GB/s in a copy"
    return [
        f"<h2>Time by kernel</h2><p>{profile.call_seconds * 1e3:,.3f} ms a call. The machine was measured to reach {peak}; shares are of these.</p>",
        _table(["kernel", "runs", "ms", "", "GFLOP/s", "of peak", "GB/s", "of copy", "lines"], kernels, numeric={1, 2, 4, 5, 6, 7}),
        "<h2>Time by line</h2>",
        _table(["line", "", "ms", ""], lines, numeric={2}),
    ]


def _bar(share: float) -> str:
    return f'<span class=bar style="width:{share * 12:.2f}em"></span>'


def _lines(model: Model, executable: Executable) -> list[tuple[str, ...]]:
    """A kernel's work, shared evenly among the lines that it computes."""
    work: dict[str, float] = defaultdict(float)
    for launch in executable.launches:
        kernel = executable.kernels[launch.kernel]
        own = own_lines(model, kernel.lines)
        for line in own:
            work[line] += kernel.flops / len(own)
    most = max(work.values(), default=1) or 1
    rows: list[tuple[str, ...]] = []
    for line, flops in sorted(work.items(), key=lambda item: -item[1]):
        rows.append((_short(line), _text(model, line), f"{flops / 1e6:,.2f}", _bar(flops / most)))
    return rows


def _text(model: Model, line: str) -> str:
    text = line_text(model, line)
    return f"<code>{html.escape(text)}</code>" if text else ""


def _short(line: str) -> str:
    return html.escape(Path(line).name)


def _bytes(n: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:.3g} GiB"


def _table(head: list[str], rows: list[Any], numeric: set[int] = frozenset()) -> str:  # type: ignore[assignment]
    def cells(row: Any, tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if k in numeric else ''}>{cell}</{tag}>" for k, cell in enumerate(row))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<tr>{cells(head, 'th')}</tr>" if any(head) else ""
    return f"<table>{top}{body}</table>"
