"""Finds every model over a sequence: the files that hold one, and a model around each layer of the library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dslc.frontend import syntax as s
from dslc.frontend.source import LIBRARY, load_program

ROOT = Path(__file__).parents[2]
FOLDERS = ("examples", "tests/models/sequences", "tests/frontend/programs", "benchmarks/models")
SMALL = {"batch": 3, "time": 12, "vocab": 23, "width": 24, "depth": 2}  # at most, where a file names them

NOT_LAYERS = ("losses", "optim", "schedules")  # files of the library whose layers stand elsewhere than in a network
# values for options without a default
NEEDED = {
    "hidden": "8",
    "heads": "2",
    "out": "8",
    "width": "8",
    "vocab": "23",
    "groups": "2",
    "p": "0.1",
    "time": "time",
}
VARIANTS = {  # beside the defaults and each truth value turned round
    "self_attention": ("causal=true, window=4", "causal=true, kv_heads=1, rotate=true", "window=3"),
    "conv1d": ("pad=2", "pad=4, dilation=2", "kernel=2, pad=1, groups=2", "pad=1"),
    "conv_transpose1d": ("kernel=4, dilation=2",),
    "maxpool1d": ("kernel=3, stride=1, pad=2", "kernel=3, stride=1, pad=1"),
    "avgpool1d": ("kernel=3, stride=1, pad=2",),
    "stacked": ("layers=3, cell=gru", "cell=bidirectional"),
}
MODEL = """model Around:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
{body}
    output  logits = linear(x + z, vocab)
"""
# How a port of each kind is fed from x[batch, time, width], and how the result comes back as z.
PORTS = {
    "ids": ("", "tokens", "    z = y"),
    "sequence": ("", "x", "    z = linear(y, width)"),
    "table": ("", "", "    z[b < batch, t, d] = y[t, d]"),
    "channels": ("    c[b, d, t] = x[b, t, d]\n", "c", "    e[b, t < time, d] = y[b, d, t]\n    z = linear(e, width)"),
    "pooled": ("    c[b, d, t] = x[b, t, d]\n", "c", "    z[b, t < time, d] = y[b, d]"),
    "heads": ("    c[b, h < 2, t, c < 4] = x[b, t, 4 * h + c]\n", "c", "    z[b, t, d < width] = y[b, d // 4, t, d % 4]"),
    "scores": (
        "    c[b, h < 2, i, j] = where(j <= i, sum[c < 4](x[b, i, 4 * h + c] * x[b, j, 4 * h + c]), -inf)\n",
        "c",
        "    p[b, h, i, j] = softmax[j](y[b, h, i, j])\n    z[b, i, d] = sum[j](p[b, d // 4, i, j] * x[b, j, d])",
    ),
}


@dataclass(frozen=True)
class Found:
    """A model to load: a file or a text, with sizes that replace its own."""

    name: str
    spec: Any
    sizes: dict[str, int]

    def __str__(self) -> str:
        return self.name


def model_files() -> Iterator[Found]:
    """The model files of the repository that read a sequence: ids [batch, time], or vectors [batch, time, width]."""
    for path in chain.from_iterable(sorted((ROOT / folder).glob("*.dsl")) for folder in FOLDERS):
        body = load_program(path).model().definition.body
        ports = [d for line in body if isinstance(line, s.Input) for d in line.declarations]
        if any(len(p.axes or ()) == (2 if p.type == "int32" else 3) for p in ports):
            yield Found(str(path.relative_to(ROOT)), path, _small(body))


def _small(body: tuple[s.Statement, ...]) -> dict[str, int]:
    named = [n for line in body if isinstance(line, (s.Dims, s.Let)) for n in (line.entries if isinstance(line, s.Dims) else line.bindings)]
    numbers = {n.name: n.value.value for n in named if isinstance(n.value, s.Number)}
    return {name: size for name, size in SMALL.items() if name in numbers and (name == "batch" or numbers[name] > size)}


def library_layers() -> Iterator[Found]:
    """A model around each layer of the library that can stand over a sequence, in each of its forms."""
    for path in sorted(LIBRARY.glob("*.dsl")):
        layers = [] if path.stem in NOT_LAYERS else load_program(path).definitions(s.Layer)
        for layer in layers:
            kind = _kind(layer)
            for options in _forms(layer) if kind else ():
                yield Found(f"{layer.name}({options})", _around(layer, kind, options), {})


def _kind(layer: s.Layer) -> str | None:
    """The kind of a layer's first port; None for one over pictures, or one that is fed something else besides."""
    ports = [f for f in layer.formals if f.axes is not None]
    if any(len(f.axes or ()) != len(ports[0].axes or ()) for f in ports):
        return None
    port = next(iter(ports), None)
    if port is None:
        return "table"
    if port.type == "int32":
        return "ids"
    names = ["..." if isinstance(a, s.Rest) else a.name for a in port.axes]
    if names[0] == "...":
        return "sequence"
    if names[:2] == ["n", "c"] and len(names) == 3:
        returned = next((line.items[0].target for line in layer.body if isinstance(line, s.Return)), None)
        return "channels" if returned is None or returned.axes is None or len(returned.axes) == 3 else "pooled"
    return {("b", "h", "t", "c"): "heads", ("b", "h", "i", "j"): "scores"}.get(tuple(names), "sequence" if len(names) == 3 else None)


def _forms(layer: s.Layer) -> list[str]:
    flags = [f for f in layer.formals if isinstance(f.default, s.Bool)]
    return ["", *(f"{f.name}={'false' if f.default.value else 'true'}" for f in flags), *VARIANTS.get(layer.name, ())]


def _around(layer: s.Layer, kind: str, options: str) -> str:
    before, fed, after = PORTS[kind]
    ports = [fed for f in layer.formals if f.axes is not None]
    needed = [f"{f.name}={NEEDED[f.name]}" for f in layer.formals if f.axes is None and f.default is None]  # a new name needs a value above
    call = ", ".join([*ports, *needed, *([options] if options else [])])
    return MODEL.format(body=f"{before}    y = {layer.name}({call})\n{after}")
