"""docs/onnx.md, from the table of operators: `python -m dslc.frontend.onnx.page > docs/onnx.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .coverage import supported
from .reader import OLDEST
from .table import table

HEAD = """# ONNX

`dslc.load("model.onnx")`, or a `ModelProto` in memory, gives a model like any other; `dslc import model.onnx` shows its ports, dims, operators and
parameters, and with `-o fit.dsl` writes a model file in which the graph is a layer: `net = import "model.onnx"`.

- Float initializers that are weights or biases of the operators are parameters, running statistics are states, everything else is constant;
  `import("model.onnx", train="*.weight")` chooses the parameters by a pattern of their names, `freeze="stem.*"` keeps those that match as they are
  (both take a list of patterns). Their paths are the graph's names.
- `dslc train model.onnx --loss cross_entropy --data rows.npz --freeze "stem.*" --steps 100` trains a graph at once: it writes the model file
  `fit.dsl` with the loss and the train block into the run folder, and trains that. `--data` is an .npz or .csv file with a column for each input
  and one called `target`, or a data source as a train block writes it.
- Symbolic dims are dims of the model: `--set batch=8`, `dslc.load("model.onnx", batch=8)`; without it they are 1. Inside a model file they follow
  from what the layer is called with.
- What decides a shape must be known at compile time: constants, shapes, and what is computed from them. An input that does can be given:
  `dslc.load("model.onnx", shape=[2, 3])`.
- In training programs BatchNormalization uses the statistics of the batch and Dropout drops.
- Everything that is not supported is told at once, with the nodes. Complex numbers, texts and maps are not there.
- `dslc export SPEC -o model.onnx`, or `dslc.onnx_export.to_onnx(model)`, writes a model's outputs with its weights as a graph of opset 20;
  draws become those of ONNX, which have the same distributions and other numbers.
- `dslc.onnx_backend` is onnx's `Backend` interface: `prepare`, `run_model`, `run_node`, `supports_device`.

Types that the compiler has no own form of are carried by wider ones: 16-bit unsigned integers by int32, 32-bit ones by int64, 4- and 2-bit ones by
int8, float8 variants without an own form, float6 and float4 by float32; results are rounded or wrapped as their own type says.

`tests/onnx/unsupported.txt` lists onnx's own node tests that do not pass on the CPU, each under its reason.

## Operators

An operator is built directly, or through its definition by other operators that the standard gives ("defined by others"). Versions are the opsets in
which its meaning changed; an opset between two of them means the older one.

| operator | versions | how |
| --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = list(_rows())
    return HEAD + "\n".join(rows) + "\n"


def _rows() -> Iterator[str]:
    import onnx

    versions: dict[tuple[str, str], list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        domain = "" if schema.domain == "ai.onnx" else schema.domain
        versions.setdefault((domain, schema.name), []).append(schema)
    own = set(table()) - set(versions)
    for domain, name in sorted([*versions, *own], key=lambda k: (k[0] != "", k)):
        found = sorted(versions.get((domain, name), []), key=lambda s: s.since_version)
        newest = found[-1].since_version if found else 1
        if (found and found[-1].deprecated and (domain, name) not in table()) or not supported(name, domain, newest):
            continue
        kept = [s.since_version for k, s in enumerate(found) if k == len(found) - 1 or domain or found[k + 1].since_version > OLDEST]
        entry = table().get((domain, name))
        how = "defined by others" if entry is None else entry.note
        cells = (f"{domain}.{name}" if domain else name, ", ".join(map(str, kept)), how)
        yield "|" + "|".join(f" {c} " if c else " " for c in cells) + "|"


if __name__ == "__main__":
    print(page(), end="")
