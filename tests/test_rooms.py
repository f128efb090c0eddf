"""The rooms' import rules: an arrow between rooms runs downward only, MLIR is imported in one module, importing dslc is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dslc"
ALLOWED = {
    "core": set(),
    "runtime": {"core"},
    "ir": {"core"},
    "frontend": {"ir", "core"},
    "passes": {"ir", "core"},
    "backend_cpu": {"ir", "core"},
    "backend_cuda": {"ir", "core"},
}
HEAVY = {"torch", "torch_mlir", "onnx", "matplotlib", "scipy", "sklearn", "typer", "rich", "lark", "yaml", "ml_dtypes"}


def imports(path: Path) -> list[str]:
    """Absolute names of everything a file imports, at any depth of the file."""
    package = ["dslc", *path.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.append(module)
            if module == "dslc":
                found += [f"dslc.{alias.name}" for alias in node.names]
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_imports_run_downward(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        if name.startswith("torch_mlir"):
            assert path == ROOT / "ir" / "mlir.py", f"{path} imports MLIR"
        if room in ALLOWED and name.startswith("dslc."):
            target = name.split(".")[1]
            assert target == room or target in ALLOWED[room], f"{path} imports {name}"


def test_importing_dslc_loads_nothing_heavy():
    code = "import sys, dslc; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & HEAVY
