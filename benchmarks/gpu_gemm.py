"""Matrix products of the CUDA target against torch's (cuBLAS), on one GPU.

    python -m benchmarks.gpu_gemm prepare FOLDER            needs the compiler and NVRTC, no GPU: writes cubins and a list of cases
    python -m benchmarks.gpu_gemm run FOLDER OUT.json       needs torch and cuda-bindings on a Hopper GPU, not the compiler

Every kernel is first compared with a product in float64, then contestants take turns in rounds; times are medians of CUDA events. Results are written
after each case. A child process does the work: where it makes no progress for a while (a barrier's wrong phase hangs), it is ended, the case is
noted, and another child goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TOKENS = 16384
# name, rows, columns, terms, how a and b lie (n: [rows, terms] and [terms, columns], t: transposed)
TIMED = [
    ("square 8192", 8192, 8192, 8192, "nt"),
    ("square 8192", 8192, 8192, 8192, "nn"),
    ("square 4096", 4096, 4096, 4096, "nt"),
    ("square 4096", 4096, 4096, 4096, "nn"),
    ("square 4096", 4096, 4096, 4096, "tn"),
    ("qkv", TOKENS, 2304, 768, "nn"),
    ("proj", TOKENS, 768, 768, "nn"),
    ("fc", TOKENS, 3072, 768, "nn"),
    ("fc2", TOKENS, 768, 3072, "nn"),
    ("head", TOKENS, 50304, 768, "nt"),
    ("qkv dx", TOKENS, 768, 2304, "nt"),
    ("fc2 dx", TOKENS, 3072, 768, "nt"),
    ("head dx", TOKENS, 768, 50304, "nn"),
    ("qkv dw", 768, 2304, TOKENS, "tn"),
    ("proj dw", 768, 768, TOKENS, "tn"),
    ("fc dw", 768, 3072, TOKENS, "tn"),
    ("head dw", 50304, 768, TOKENS, "tn"),
]
TIMED_TF32 = [(*c, on_hopper) for c in TIMED if c[0] in ("square 4096", "qkv", "fc", "fc2 dx", "fc dw") for on_hopper in (True, False)]
CHECKED = (200, 584, 448)  # rows, columns, terms of the small products that every schedule makes first
CHECKED_TILES = [
    ("bfloat16", "nn"), ("bfloat16", "tt"), ("float16", "nt"), ("float32", "nn"), ("float32", "tt"), ("float64", "nt"),
    ("tf32", "nn"), ("tf32", "tt"),
]  # fmt: skip
LIMITS = {"bfloat16": 4e-3, "float16": 5e-4, "float32": 4e-6, "tf32": 5e-4, "float64": 1e-14}  # |found - exact| / |exact|
ROUNDS, ROUND_SECONDS, STALLED = 7, 0.012, 25.0


@dataclass
class Kernel:
    """One way to make a case's product: its functions, with what `dslc.backend_cuda.stage.Function` says of each."""

    words: str
    cubin: str
    functions: list[dict[str, Any]]
    workspace_bytes: int
    chosen: bool  # by the cost rule


@dataclass
class Case:
    name: str
    rows: int
    columns: int
    terms: int
    layout: str
    timed: bool
    dtype: str = "bfloat16"  # or "tf32": of float32
    hopper: bool = True  # the kernels are those for Hopper, else those for every GPU
    kernels: list[Kernel] = field(default_factory=list)

    @property
    def element(self) -> str:
        """The type of the operands and the result."""
        return "float32" if self.dtype == "tf32" else self.dtype

    def title(self) -> str:
        how = "" if self.hopper else ", tiles"
        return f"{self.name} {self.rows} x {self.columns} x {self.terms} {self.layout} {self.dtype}{how}"


# ---- prepare


def prepare(folder: Path, every: bool) -> None:
    """Generates and compiles all kernels. `every`: each timed case in all tile sizes, else in the chosen one."""
    from dataclasses import replace

    from dslc.backend_cuda.arch import ARCHS
    from dslc.ir import op as nn
    from dslc.ir.mlir import ir

    full = ARCHS["sm_90a"]
    folder.mkdir(parents=True, exist_ok=True)
    cases = [Case("check", *CHECKED, layout, False) for layout in ("nn", "nt", "tn", "tt")]
    cases += [Case("check", *CHECKED, layout, False, dtype, False) for dtype, layout in CHECKED_TILES]
    cases += [Case(*c, True) for c in TIMED]
    cases += [Case("square 4096", 4096, 4096, 4096, "nn", True, dtype, False) for dtype in ("float32", "bfloat16")]
    cases += [Case("check", *CHECKED, layout, False, "tf32") for layout in ("nt", "tn")]
    cases += [Case(*c, True, "tf32", on_hopper) for *c, on_hopper in TIMED_TF32]
    with nn.context(), ir.Location.unknown():
        for number, case in enumerate(cases):
            arch = full if case.timed else replace(full, sms=3)
            case.kernels = list(_kernels(case, arch, folder, number, every or not case.timed))
            print(case.title(), len(case.kernels), flush=True)
    (folder / "cases.json").write_text(json.dumps([asdict(c) for c in cases]))


def _kernels(case: Case, arch: Any, folder: Path, number: int, every: bool) -> Iterator[Kernel]:
    from dslc.backend_cuda import gemm_schedule, nvrtc
    from dslc.backend_cuda.kernels import contract, hopper, tiles
    from dslc.core.dtypes import BY_NAME
    from dslc.ir.ops.contraction import contract as product_of
    from tests.backend_cuda.kernels import products

    m, n, k = case.rows, case.columns, case.terms
    shapes = [(m, k) if case.layout[0] == "n" else (k, m), (k, n) if case.layout[1] == "n" else (n, k)]
    axes = [[0, 2] if case.layout[0] == "n" else [2, 0], [2, 1] if case.layout[1] == "n" else [1, 2]]

    def build(a: Any, b: Any) -> Any:
        return product_of(a, b, *axes, [0, 1], tf32=case.dtype == "tf32")

    made = products.built(products.Case(f"product{number}", [(BY_NAME[case.element], s) for s in shapes], build), arch)
    (op,) = {op for op, _ in made.request.body.makers.values()}
    epilogue = contract.epilogue_of(made.request, op)
    schedules: list[Any]
    generate: Callable[[Any], Any]
    cost: Callable[[Any], float]
    if case.hopper:
        product = contract.hopper_product(epilogue)
        assert product is not None
        schedules = gemm_schedule.hopper_schedules(product.sizes, arch, product.depth, lambda rows, columns: hopper.fits(product, rows, columns))
        depth = product.depth
        generate, cost = lambda s: hopper.generate(product, s), lambda s: gemm_schedule.hopper_cycles(s, product.sizes, arch, product.depth)
    else:
        tiled = tiles.product_of(epilogue)
        schedules = gemm_schedule.tile_schedules(tiled.sizes, arch, tiled.element.bytes, tiled.mma)
        generate, cost = lambda s: tiles.generate(tiled, s), lambda s: gemm_schedule.tile_cycles(s, tiled.sizes, arch, tiled.rate)
    best = min(schedules, key=cost)
    if case.timed:  # of splits only those that may help
        schedules = sorted(schedules, key=cost)[: (7 if case.hopper else 3) if every else 1]
    else:
        schedules = [s for s in schedules if s.splits <= 2]
    for turn, schedule in enumerate(schedules):
        generated = generate(schedule)
        text = products.text_of(generated, made.request)
        (cubin,) = nvrtc.build([text], arch.name)
        name = f"{number:02d}_{turn:02d}"
        (folder / f"{name}.cubin").write_bytes(cubin.code)
        words = f"{schedule.words(depth)}" if case.hopper else generated.functions[0].schedule
        yield Kernel(words, f"{name}.cubin", [_described(f) for f in generated.functions], generated.workspace_bytes, schedule == best)


def _described(function: Any) -> dict[str, Any]:
    plain = asdict(function)
    del plain["text"]
    return plain


# ---- run


def run(folder: Path, out: Path, seconds: float) -> None:
    """Children work through the cases; one that stalls is ended and the next goes on behind the case at which it stood."""
    end = time.monotonic() + seconds
    first, lines = 0, out.with_suffix(".jsonl")
    count = len(json.loads((folder / "cases.json").read_text()))
    lines.write_text("")
    noted: list[dict[str, Any]] = []
    while first < count and time.monotonic() < end:
        command = [sys.executable, __file__, "child", str(folder), str(lines), "--first", str(first)]
        child = subprocess.Popen(command)
        seen, since = _rows(lines), time.monotonic() + 30  # a start takes a while
        while child.poll() is None:
            time.sleep(0.2)
            if len(_rows(lines)) > len(seen):
                seen, since = _rows(lines), time.monotonic()
            if time.monotonic() > min(since + STALLED, end):
                child.kill()
                child.wait()
        begun = [r["begun"] for r in _rows(lines) if "begun" in r]
        if child.returncode == 0:
            break
        at = max(begun, default=first)
        noted.append({"case": at, "error": "stalled or ended" if time.monotonic() < end else "no time left", "status": child.returncode})
        first = max(at, first) + 1
    report = {"rows": [r for r in _rows(lines) if "begun" not in r], "failures": noted}
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(report), flush=True)


def _rows(lines: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.read_text().splitlines() if line.endswith("}")]


def _table(report: dict[str, Any]) -> str:
    out = []
    for r in report["rows"]:
        if "tflops" in r:
            mark = "*" if r.get("chosen") else " "
            rate = f"{mark} {r['tflops']:7.1f} TFLOP/s {r.get('of_torch', 1):5.2f} of torch"
            out.append(f"{r['case']:40} {rate}   error {r['error']:.1e}   {r['words']}")
        else:
            said = r.get("failed") or f"right, error {r['error']:.1e}"
            out.append(f"{r['case']:40}   {r.get('words', '')}: {said}")
    return "\n".join([*out, *map(str, report["failures"])])


def child(folder: Path, lines: Path, first: int) -> None:
    """Checks and times the cases from number `first` on; one line of JSON a fact."""
    import torch

    cases = [Case(**{**c, "kernels": [Kernel(**k) for k in c["kernels"]]}) for c in json.loads((folder / "cases.json").read_text())]
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    with lines.open("a") as file:

        def note(**row: Any) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        if not first:
            note(device=torch.cuda.get_device_name(), torch=torch.__version__, case="device", error=0.0)
        for number, case in enumerate(cases[first:], first):
            note(begun=number)
            try:
                _case(case, folder, note)
            except Exception as error:
                note(case=case.title(), failed=f"{type(error).__name__}: {error}"[:400])
                if "CUDA" in str(error):
                    raise SystemExit(3) from None  # the context may be dead
            torch.cuda.empty_cache()


def _case(case: Case, folder: Path, note: Callable[..., None]) -> None:
    import torch

    m, n, k = case.rows, case.columns, case.terms
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((m, k) if case.layout[0] == "n" else (k, m)), ((k, n) if case.layout[1] == "n" else (n, k))
    sets = max(1, min(6, int(2e8 / (2 * (m * k + k * n + m * n)))))  # together larger than the L2 cache
    dtype = getattr(torch, case.element)
    torch.backends.cuda.matmul.allow_tf32 = case.dtype == "tf32"
    inputs = [[torch.randn(s, generator=generator, device="cuda", dtype=dtype) for s in shapes] for _ in range(sets)]
    outs = [torch.empty(m, n, dtype=dtype, device="cuda") for _ in range(sets)]
    wanted = _exact(*_laid(inputs[0], case.layout))
    rights: list[tuple[Kernel, list[Callable[[], None]], float]] = []
    for kernel in case.kernels:
        workspace = torch.full((max(kernel.workspace_bytes, 1),), 0xFF, dtype=torch.uint8, device="cuda")
        launches = [_launcher(folder, kernel, [*given, out], workspace) for given, out in zip(inputs, outs)]
        outs[0].fill_(float("nan"))
        launches[0]()
        error = _error(outs[0], wanted)
        if not error < LIMITS[case.dtype]:
            note(case=case.title(), words=kernel.words, failed=f"wrong: relative error {error}")
            continue
        if not case.timed:
            note(case=case.title(), words=kernel.words, error=error)
        rights.append((kernel, launches, error))
    if not case.timed:
        return
    theirs = [_bound(torch.matmul, *_laid(given, case.layout), out) for given, out in zip(inputs, outs)]
    theirs[0]()
    torch_error = _error(outs[0], wanted)
    del wanted
    times = _times([theirs, *(launches for _, launches, _ in rights)])
    flops = 2.0 * m * n * k
    note(case=case.title(), words="torch.matmul", tflops=flops / times[0] / 1e12, error=torch_error, seconds=times[0])
    for (kernel, _, error), seconds in zip(rights, times[1:]):
        note(case=case.title(), words=kernel.words, tflops=flops / seconds / 1e12, of_torch=times[0] / seconds, error=error, seconds=seconds,
             chosen=kernel.chosen)  # fmt: skip


def _laid(given: list[Any], layout: str) -> list[Any]:
    return [x if how == "n" else x.T for x, how in zip(given, layout)]


def _bound(call: Callable[..., Any], a: Any, b: Any, out: Any) -> Callable[[], None]:
    return lambda: call(a, b, out=out)


def _exact(a: Any, b: Any) -> Any:
    """The product in float64; of large ones some rows alone."""
    import torch

    rows = _sample(a.shape[0], a.shape[0] * b.shape[1] * a.shape[1])
    return rows, a[rows].to(torch.float64) @ b.to(torch.float64)


def _sample(rows: int, work: int) -> Any:
    import torch

    step = max(1, int(work / 2e10))
    return torch.arange(0, rows, step, device="cuda")


def _error(found: Any, wanted: Any) -> float:
    rows, exact = wanted
    difference = found[rows].double() - exact
    bad = (~found.isfinite()).any()  # what was never written
    return float("nan") if bad else float(difference.norm() / exact.norm())


def _times(contestants: list[list[Callable[[], None]]]) -> list[float]:
    """Seconds a product of each, the median of rounds in which they take turns."""
    import torch

    repeats = []
    for launches in contestants:
        for run_one in launches:
            run_one()
        repeats.append(max(len(launches), int(ROUND_SECONDS / max(_timed(launches, len(launches)), 1e-6))))
    rounds: list[list[float]] = [[] for _ in contestants]
    for _ in range(ROUNDS):
        for found, launches, count in zip(rounds, contestants, repeats):
            found.append(_timed(launches, count))
    torch.cuda.synchronize()
    return [statistics.median(r) for r in rounds]


def _timed(launches: list[Callable[[], None]], count: int) -> float:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for k in range(count):
        launches[k % len(launches)]()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / count


def _launcher(folder: Path, kernel: Kernel, tensors: list[Any], workspace: Any) -> Callable[[], None]:
    """A function that starts a kernel's functions on torch's stream."""
    import ctypes

    import torch
    from cuda.bindings import driver

    from dslc.core.executable import TensorMap
    from dslc.runtime.drivers.device import packed_tensor_map
    from dslc.runtime.drivers.tensor_maps import encoded

    def done(status: Any, *values: Any) -> Any:
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"CUDA: {status.name}")
        return values[0] if values else None

    module = done(*driver.cuModuleLoadData((folder / kernel.cubin).read_bytes()))
    stream = torch.cuda.current_stream().cuda_stream
    calls = []
    for f in kernel.functions:
        values: list[Any] = []
        for p in f["parameters"]:
            if p["source"] == "value":
                values.append(ctypes.c_int32(p["number"]))
            elif p["source"] in ("map", "workspace_map"):
                m = p["tensor_map"]
                described = TensorMap((), m["dtype"], *(tuple(m[x]) for x in ("dims", "strides", "box")), m["swizzle"])
                base = tensors[p["number"]].data_ptr() if p["source"] == "map" else workspace.data_ptr() + p["number"]
                values.append(packed_tensor_map(encoded(described, base + m["place"][1])))
            else:
                at, offset = {"operand": (p["number"], 0), "result": (2 + p["number"], 0), "workspace": (3, p["number"])}[p["source"]]
                values.append(ctypes.c_uint64([*tensors, workspace][at].data_ptr() + offset))
        handle = done(*driver.cuModuleGetFunction(module, f["symbol"].encode()))
        if f["shared_bytes"] > 48 << 10:
            done(*driver.cuFuncSetAttribute(handle, driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, f["shared_bytes"]))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        calls.append((handle, (*f["grid"], *f["block"]), f["shared_bytes"], pointers, values))

    def start() -> None:
        for handle, shape, shared, pointers, _ in calls:
            done(*driver.cuLaunchKernel(handle, *shape, shared, stream, ctypes.addressof(pointers), 0))

    return start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_gemm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "run", "child"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--every", action="store_true", help="prepare: all tile sizes, not the chosen ones alone")
    parser.add_argument("--seconds", type=float, default=95.0, help="run: the most that it may take")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "prepare":
        prepare(options.folder, options.every)
    elif options.out is None:
        parser.error(f"{options.step} needs a file to write")
    elif options.step == "run":
        from .gpu_contest import Place  # children are run by the file's name, and import nothing of the package

        if lacking := Place().missing():
            print(f"{parser.prog} needs a GPU: {lacking}", file=sys.stderr)
            sys.exit(2)
        run(options.folder, options.out, options.seconds)
    else:
        child(options.folder, options.out, options.first)


if __name__ == "__main__":
    main()
