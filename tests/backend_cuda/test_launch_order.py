"""What the CUDA compiler makes of kernels whose launches overlap: nothing moves across the wait for those before, no load is one of memory that never
changes, as another launch may still write it. Needs NVRTC, no GPU."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("cuda.bindings.nvrtc")

import dslc
from dslc.backend_cuda import nvrtc
from dslc.backend_cuda.emulated import cuda_headers
from dslc.backend_cuda.source import bundle
from dslc.compiler import compile_program
from dslc.core.executable import WAITS, from_bytes, to_bytes

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
TEXT = """model Order:
    input   x[2, 160, 64], y[2, 160]: int32, wide[40, 20000]
    h = x + self_attention(layernorm(x), 1, causal=true)
    logits = linear(layernorm(h), 32)
    lines[n, k] = softmax[k](wide[n, k])
    loss    cross_entropy(logits, y) + mean(lines) ** 2

train:
    optimizer adamw(lr=0.1)
    precision {precision}
"""
# Instructions that touch memory which other launches write, or shared memory's copies of it; `load_steady` (ld.weak) is of what no launch writes: the
# emulator checks that.
TOUCHES = re.compile(r"^\s*(?:@\S+ )?(ld\.(?!param|shared|local|const|weak)[a-z]|st\.(?!shared|local|param)[a-z]|red\.|atom\.|cp\.async)")
READ_ONLY = re.compile(r"ld\.global\.nc|ld\.global\.\w+\.nc|ldu\.|tex\.")


def ptx_of(text: str) -> str:
    from cuda.bindings import nvrtc as api

    _, program = api.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], [])
    options = [o.encode() for o in ("--gpu-architecture=compute_90a", f"--include-path={cuda_headers()}", *nvrtc.OPTIONS[:2])]
    (status,) = api.nvrtcCompileProgram(program, len(options), options)
    assert status == api.nvrtcResult.NVRTC_SUCCESS
    data = bytes(bytearray(api.nvrtcGetPTXSize(program)[1]))
    api.nvrtcGetPTX(program, data)
    api.nvrtcDestroyProgram(program)
    return data.decode(errors="replace")


def kernels_of(ptx: str) -> dict[str, list[str]]:
    """The lines of each kernel."""
    parts = re.split(r"^\.visible \.entry (\w+)", ptx, flags=re.MULTILINE)
    return {name: body.splitlines() for name, body in zip(parts[1::2], parts[2::2])}


def early(ptx: str) -> list[str]:
    """What is wrong with the order of each kernel."""
    wrong = []
    for name, lines in kernels_of(ptx).items():
        found = [lines[k] for k in before_waiting(lines)]
        wrong += [f"{name} before its wait: {line.strip()}" for line in found if TOUCHES.search(line)]
        wrong += [f"{name} ends without a wait" for line in found if re.search(r"^\s*(?:@\S+ )?(ret|exit);", line)]
        wrong += [f"{name}: {line.strip()}" for line in lines if READ_ONLY.search(line)]
    return wrong


def before_waiting(lines: list[str]) -> list[int]:
    """The lines that a thread can come to before it has waited."""
    labels = {found[1]: k for k, line in enumerate(lines) if (found := re.match(r"^(\$\S+):", line))}
    seen: set[int] = set()
    work = [0]
    while work:
        k = work.pop()
        if k in seen or k >= len(lines) or "griddepcontrol.wait" in lines[k]:
            continue
        seen.add(k)
        jump = re.search(r"\bbra(?:\.uni)?\s+(\S+);", lines[k])
        if jump:
            work.append(labels[jump[1]])
        if lines[k].strip().startswith("@") or not (jump or re.search(r"^\s*(ret|exit);", lines[k])):
            work.append(k + 1)
    return sorted(seen)


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_nothing_is_read_before_the_wait(precision):
    made = compile_program(dslc.load(TEXT.format(precision=precision)), "train", "cuda:sm_90a")
    assert WAITS in from_bytes(to_bytes(made)).notes
    ptx = ptx_of(bundle(made.source))
    assert len(kernels_of(ptx)) == len({k.symbol for k in made.kernels}) > 8
    assert early(ptx) == []


WRITER = """model Writer:
    dims    batch=1, time=64
    input   tokens[batch, time]: int32
    emb = use embedding(48, 64)
    x = emb(tokens) + positions(time, 64)
    x = x + self_attention(rmsnorm(x), 4, causal=true)
    x = x + swiglu(rmsnorm(x), hidden=128)
    logits[b, t, v] = sum[d](rmsnorm(x)[b, t, d] * emb.table[v, d])
    output  logits

generate:
    over time from logits sample(temperature=1.0)
"""


@pytest.mark.parametrize("program", ["prefill", "decode"])
def test_functions_that_share_a_launch_wait_each(program):
    made = compile_program(dslc.load(WRITER), program, "cuda:sm_90a")
    ptx = ptx_of(bundle(made.source))
    assert ptx.count("griddepcontrol.wait") > len(kernels_of(ptx)) and early(ptx) == []


def test_products_of_a_token_load_their_matrices_before_the_wait():
    kernels = kernels_of(ptx_of(bundle(compile_program(dslc.load(WRITER), "decode", "cuda:sm_90a").source)))
    for name, lines in kernels.items():
        steady = {k for k, line in enumerate(lines) if "ld.weak.global" in line}
        assert steady <= set(before_waiting(lines)), name
    assert sum(any("ld.weak.global" in line for line in lines) for lines in kernels.values()) >= 4


PLANTED = """#include "device/launch.cuh"
extern "C" __global__ void k(%s x, float* y, int n) {
    let_next_launch_start();
    %s
    wait_for_launches_before();
    y[threadIdx.x] = x[threadIdx.x] + x[n];
}
"""


@pytest.mark.parametrize(
    ("kind", "before", "said"),
    [
        ("const float* __restrict__", "", "ld.global.nc"),
        ("const float*", "if (n == 0) return;", "ends without a wait"),
        ("const float*", "if (x[3] > 0.0f) n = 0;", "before its wait: ld.global"),
    ],
)
def test_what_is_planted_is_found(kind, before, said):
    text = PLANTED % (kind, before)
    found = early(ptx_of(bundle(text.replace("float* y", "float* __restrict__ y") if "restrict" in kind else text)))
    assert any(said in line for line in found), found


def test_what_is_right_passes():
    assert early(ptx_of(bundle(PLANTED % ("const float*", "prefetch(x + n);")))) == []
