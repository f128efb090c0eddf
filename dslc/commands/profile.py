"""`dslc profile`: where the time of one call goes, by kernel and by line of the model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..measuring import SECONDS, Profile, by_kernel, by_line, line_text, profile, trace_events
from ..model import Model
from ..runtime.events import Listener, silent
from .bench import default_program
from .opening import known_program, open_model, tune_first, with_length


def measure(
    spec: str | Path,
    *,
    program: str | None = None,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    weights: str | Path | None = None,
    map: str | Path | None = None,
    seconds: float = SECONDS,
    tune: float | None = None,
    listener: Listener = silent,
) -> tuple[Model, Profile]:
    """The model and its profile on drawn inputs; `tune`: seconds in which its kernels' schedules are measured before. TargetError for a target that
    cannot tell the times of kernels."""
    model, target = open_model(spec, overrides, target, weights, map)
    name = known_program(program) if program else default_program(model)
    tune_first(with_length(model), [name], target, tune, listener)
    return model, profile(model, name, target, seconds)


def write_trace(found: Profile, file: Path) -> None:
    """The launches for Perfetto."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(trace_events(found)), encoding="utf-8")


def figures(model: Model, found: Profile) -> dict[str, Any]:
    """The profile as plain values: seconds, operations and bytes a second, and shares of what the machine does at most."""
    total = sum(t.seconds for t in found.launches)
    kernels = [
        {"name": r.name, "kind": r.kind, "runs": r.runs, "seconds": r.seconds, "share": r.seconds / total if total else 0.0,
         "flops": r.flops, "bytes": r.bytes, "flops_rate": r.flops_rate, "bytes_rate": r.bytes_rate,
         "of_peak_flops": r.flops_rate / found.peak_flops, "of_copy_bandwidth": r.bytes_rate / found.peak_bytes,
         "schedule": r.schedule, "lines": [Path(x).name for x in r.lines]}
        for r in by_kernel(found)
    ]  # fmt: skip
    lines = [
        {"place": Path(p).name, "seconds": s, "share": s / total if total else 0.0, "text": line_text(model, p)} for p, s in by_line(model, found)
    ]
    return {
        "model": model.name, "program": found.program, "target": found.executable.target, "call_seconds": found.call_seconds,
        "kernel_seconds": total, "peak_flops": found.peak_flops, "peak_bytes": found.peak_bytes, "kernels": kernels, "lines": lines,
    }  # fmt: skip


def table(told: dict[str, Any], rows: int = 30) -> str:
    """The figures for people: the longest kernels and lines."""
    out = [
        f"{told['model']}, program {told['program']} on {told['target']}: {told['call_seconds'] * 1e3:.3f} ms a call, "
        f"{told['kernel_seconds'] * 1e3:.3f} ms in kernels",
        f"the machine: {told['peak_flops'] / 1e9:,.0f} GFLOP/s (a product of matrices), {told['peak_bytes'] / 1e9:,.1f} GB/s (a copy)",
        "",
        f"{'kernel':36} {'runs':>5} {'ms':>9} {'share':>6} {'GFLOP/s':>9} {'peak':>5} {'GB/s':>7} {'copy':>5}  {'schedule':10}  lines",
    ]
    for k in told["kernels"][:rows]:
        shown = ", ".join(k["lines"][:4]) + (", ..." if len(k["lines"]) > 4 else "")
        out.append(
            f"{k['name'][:36]:36} {k['runs']:5} {k['seconds'] * 1e3:9.3f} {k['share']:6.1%} {k['flops_rate'] / 1e9:9.1f} "
            f"{k['of_peak_flops']:5.0%} {k['bytes_rate'] / 1e9:7.1f} {k['of_copy_bandwidth']:5.0%}  {k['schedule']:10}  {shown}"
        )
    out += [f"... and {len(told['kernels']) - rows} more"] if len(told["kernels"]) > rows else []
    out += ["", f"{'line':24} {'ms':>9} {'share':>6}"]
    out += [f"{line['place'][:24]:24} {line['seconds'] * 1e3:9.3f} {line['share']:6.1%}  {line['text']}" for line in told["lines"][:rows]]
    out += [f"... and {len(told['lines']) - rows} more"] if len(told["lines"]) > rows else []
    return "\n".join(out)


def write_page(model: Model, found: Profile, file: Path) -> None:
    """report.html of the program, with its times."""
    from ..report import page

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(model, found.executable, found), encoding="utf-8")
