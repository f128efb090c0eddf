"""`dslc inspect`: what a model is and what the compiler made of it."""

from __future__ import annotations

import difflib
import html
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..compiler import family_of, lower
from ..model import Model
from ..passes.notes import notes_of
from ..recipes import OF_ANY_LENGTH
from ..targets import target_of
from .opening import known_program, open_spec, with_length


def prepared(spec: str | Path, overrides: dict[str, Any] | None = None) -> tuple[Model, str]:
    """The model of a file or of a run, and its target; where its length is given in epochs, schedules see a length of 1,000 steps."""
    model, target = open_spec(spec, overrides)
    return with_length(model), target


def module_text(model: Model, program: str, target: str, after: str) -> str:
    """The module after a pass, with places in the model file."""
    elaborated = lower(model, known_program(program), target_of(target), after=after)
    with elaborated.context:
        return elaborated.module.operation.get_asm(enable_debug_info=True, pretty_debug_info=True)


def trace(model: Model, program: str, target: str, folder: Path) -> list[Path]:
    """One numbered file a pass, and index.html with the differences from pass to pass."""
    texts: list[tuple[str, str]] = []
    lower(model, known_program(program), target_of(target), lambda name, module: texts.append((name, str(module))))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, (name, text) in enumerate(texts):
        files.append(folder / f"{k:02}_{name}.mlir")
        files[-1].write_text(f"// after {name}\n{text}", encoding="utf-8")
    (folder / "index.html").write_text(_differences(texts), encoding="utf-8")
    return files


def _differences(texts: list[tuple[str, str]]) -> str:
    parts = ["<!doctype html><meta charset=utf-8><title>passes</title><style>body{font:13px monospace;margin:2em;color-scheme:light dark}"
             ".a{color:#1a7f37}.d{color:#cf222e}pre{white-space:pre-wrap}</style>"]  # fmt: skip
    for (before, a), (after, b) in pairwise(texts):
        lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), before, after, lineterm="", n=1))
        marked = [f'<span class="{"a" if x.startswith("+") else "d" if x.startswith("-") else ""}">{html.escape(x)}</span>' for x in lines[:4000]]
        parts.append(f"<h2>{html.escape(after)}</h2><pre>{chr(10).join(marked) or 'nothing changed'}</pre>")
    return "\n".join(parts)


def summary(model: Model, program: str, target: str) -> dict[str, Any]:
    """Inputs, parameters by module, and the kernels of a program, as plain data."""
    elaborated = lower(model, known_program(program), target_of(target))
    checked = model.checked
    modules: Counter[str] = Counter()
    for p in checked.parameters:
        modules[p.path.rsplit(".", 1)[0] if "." in p.path else "(model)"] += p.type.size
    with elaborated.context:
        kernels = _kernels(elaborated.module)
        memory = _memory(elaborated.module) if target_of(target).lowered else {}
        notes = {name: notes_of(elaborated.module, name) for name in ("precision", "attention", "chunk")}
    if checked.bounds and program in OF_ANY_LENGTH:
        notes["lengths"] = family_of(model, program).told()
    return {
        "model": model.name,
        "inputs": [{"axes": list(axes), "shape": list(shape)} for axes, shape in model.inputs],
        "dims": checked.dims,
        "parameters": [{"path": p.path, "type": str(p.type), "line": p.span.line, "start": str(p.initializer)} for p in checked.parameters],
        "parameter_count": sum(p.type.size for p in checked.parameters),
        "modules": dict(modules),
        "states": [{"path": p.path, "type": str(p.type)} for p in checked.states],
        "program": program,
        "kernels": kernels,
        "memory": memory,
        "notes": {name: lines for name, lines in notes.items() if lines},
    }


def _memory(module: Any) -> dict[str, Any]:
    """Bytes of the plan: its arena, the least that any packing needs, the ports; under a budget what the checkpoint pass tells."""
    from ..passes.checkpoint import NOTE
    from ..passes.plan import make_plan

    plan = make_plan(module)
    told = {"plan": module.operation.attributes[NOTE].value} if NOTE in module.operation.attributes else {}
    return {"arena": plan.arena_bytes, "arena_bound": plan.lower_bound, "ports": sum(p.bytes for p in plan.ports), **told}


def _kernels(module: Any) -> list[dict[str, Any]]:
    """Kind, role, lines, what its schedule is from, and how often each kernel runs."""
    from ..ir import ops
    from ..ir.program import program_of
    from ..ir.schedules import BY_COST
    from ..ir.types import spans_of

    found: dict[tuple, int] = {}

    def walk(block: Any, times: int) -> None:
        for op in block.operations:
            if isinstance(op, ops.Kernel):
                lines = [f"{Path(s.file).name}:{s.line}" for s in spans_of(op.location)]
                chosen = "cost model" if op.schedule == BY_COST else "tuned"
                key = (op.role, op.kind, ", ".join(dict.fromkeys(lines)), chosen)
                found[key] = found.get(key, 0) + times
            elif isinstance(op, (ops.Scan, ops.Cond)):
                for region in op.regions:
                    walk(region.blocks[0], times * (op.trip if isinstance(op, ops.Scan) else 1))

    walk(program_of(module).entry_block, 1)
    return [{"role": role, "kind": kind, "lines": lines, "schedule": chosen, "runs": n} for (role, kind, lines, chosen), n in found.items()]
