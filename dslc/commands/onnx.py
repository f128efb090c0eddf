"""`dslc import`: what an ONNX graph is, whether all of it can be had, and a model file that uses it as a layer."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..frontend import syntax
from ..frontend.onnx.graph import Graph, Port
from ..frontend.onnx.layer import identifier
from ..model import Model


def inspect_graph(spec: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The graph's ports, dims, operators and parameters, as plain data. dslc.Error with every gap where it cannot be imported."""
    if not spec.endswith(".onnx"):
        raise DataError(f"import takes an .onnx file, this is {spec}")
    model = Model(spec, overrides)
    graph = graph_of(model)
    return {
        "model": model.name,
        "opsets": {domain or "ai.onnx": version for domain, version in graph.opsets.items()},
        "inputs": {p.name: _described(p) for p in graph.inputs},
        "outputs": [p.name for p in graph.outputs],
        "dims": dict(model.checked.dims),
        "operators": dict(Counter(f"{n.domain}.{n.op}".lstrip(".") for n in graph.nodes).most_common()),
        "parameters": {p.path: str(p.type) for p in model.checked.parameters},
        "states": {p.path: str(p.type) for p in model.checked.states},
    }


def graph_of(model: Model) -> Graph:
    """The graph of a model that was opened from an .onnx file."""
    statement = model.source.model(None).definition.body[0]
    assert isinstance(statement, syntax.Graph)
    return statement.graph


def _described(port: Port) -> str:
    axes = ", ".join(str(a) if a is not None else "?" for a in port.axes or ())
    return f"{port.elem.name if port.elem else '?'}[{axes}]"


def write_spec(spec: str, overrides: dict[str, Any], out: Path) -> Path:
    """A model file whose only layer is the graph, to be completed by a loss and a train block."""
    return write_lines(model_lines(Model(spec, overrides), spec, out), out)


def model_lines(model: Model, spec: str, out: Path, freeze: Sequence[str] = ()) -> list[str]:
    """The model block of a file `out` whose only layer is the graph of `spec`; its outputs are `result`, or `result_NAME` where there are several."""
    graph = graph_of(model)
    dims = ", ".join(f"{name}={size}" for name, size in model.checked.dims.items())
    lines = [f"model {re.sub(r'^.', lambda m: m[0].upper(), model.name)}:", *([f"    dims    {dims}"] if dims else [])]
    shapes = dict(zip(model.checked.builder.inputs.values(), model.inputs))
    for port in graph.inputs:
        if port.name not in shapes or port.elem is None:
            continue
        known = [a if isinstance(a, int) else identifier(a or f"{port.name}_{k}") for k, a in enumerate(port.axes or ())]
        lines.append(f"    input   {identifier(port.name)}[{', '.join(map(str, known))}]: {port.elem.carrier}")
    where = os.path.relpath(Path(spec).resolve(), out.resolve().parent)
    given = ", ".join(identifier(p.name) for p in graph.inputs if p.name in shapes)
    patterns = ", ".join(f'"{p}"' for p in freeze)
    lines += [f'    net = import("{where}", freeze=[{patterns}])' if freeze else f'    net = import "{where}"', f"    found = net({given})"]
    many = len(graph.outputs) > 1
    names = [identifier(p.name) for p in graph.outputs]
    lines += [f"    result_{name} = found.{name}" if many else "    result = found" for name in names]
    return lines + [f"    output  result_{name}" if many else "    output  result" for name in names]


def write_lines(lines: Sequence[str], out: Path) -> Path:
    """Writes a model file. DataError where it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from None
    return out
