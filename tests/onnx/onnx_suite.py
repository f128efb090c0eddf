"""onnx's own backend tests of nodes, run against dslc. `python tests/onnx/onnx_suite.py [TARGET] [NAME...]` runs them all, or some;
`operators` for the names is one of every operator."""

from __future__ import annotations

import sys
import time
import warnings
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import onnx
from onnx.backend.test.runner import Runner

from dslc import onnx_backend

UNSUPPORTED = Path(__file__).parent / "unsupported.txt"


@cache
def cases() -> dict:
    """Every node test by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


@cache
def unsupported() -> dict[str, str]:
    """Why, by the name of each test that does not pass on the CPU: headings are reasons, the names stand below."""
    found, reason = {}, ""
    for line in UNSUPPORTED.read_text().splitlines():
        if line.startswith("#"):
            reason = line[1:].strip()
        elif line.strip():
            found[line.strip()] = reason
    return found


@cache
def operators() -> tuple[str, ...]:
    """One test of every operator that passes."""
    found: dict[tuple[str, str], str] = {}
    for name in sorted(cases()):
        node = cases()[name].model.graph.node[-1]
        if name not in unsupported() and not name.endswith("_expanded"):
            found.setdefault((node.domain, node.op_type), name)
    return tuple(found.values())


def target_of(name: str) -> str:
    """Every second test runs on the CPU, all that the list names among them; the others on the reference target, which is quicker, as do the
    expansions of operators by the standard's functions. Quantization is always on the CPU: its ties are decided by float32."""
    if name in unsupported() or "quantize" in name:
        return "cpu"
    return "reference" if name.endswith("_expanded") or zlib.crc32(name.encode()) % 2 else "cpu"


def failure(name: str, target: str) -> str | None:
    """What is wrong with the results of a test, or None."""
    case = cases()[name]
    try:
        prepared = onnx_backend.prepare(case.model, target=target)
        for inputs, outputs in case.data_sets:
            found = prepared.run([_array(v) for v in inputs])
            Runner.assert_similar_outputs([_array(v) for v in outputs], list(found), rtol=case.rtol, atol=case.atol)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip()[:300]}"
    return None


def _array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def mistakes(names: Iterable[str]) -> list[str]:
    """Where the list of unsupported tests is wrong about these."""
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            wrong = failure(name, target_of(name))
            if wrong and name not in unsupported():
                out.append(f"{name} fails: {wrong}")
            if not wrong and name in unsupported():
                out.append(f"{name} passes, and {UNSUPPORTED.name} lists it")
    return out


if __name__ == "__main__":
    target, wanted = (sys.argv[1] if len(sys.argv) > 1 else "cpu"), sys.argv[2:]
    chosen = list(operators()) if wanted == ["operators"] else wanted or list(cases())
    begin, failed = time.perf_counter(), 0
    for name in chosen:
        wrong = failure(name, target)
        if wrong:
            failed += 1
            print(name, wrong.replace("\n", " | "))
    print(f"{len(chosen) - failed} of {len(chosen)} pass on {target}, {time.perf_counter() - begin:.0f} s")
