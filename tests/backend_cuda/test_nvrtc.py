"""CUDA C++ to cubins: what the compiler reports, what is refused, the cache, several texts at once. Needs NVRTC, no GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings.nvrtc")

from dslc.backend_cuda import nvrtc
from dslc.backend_cuda.nvrtc import Cubin, KernelError, Resources, build
from dslc.backend_cuda.source import bundle
from dslc.core import cache
from dslc.core.errors import TargetError

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")

SCALE = """// scale (m.dsl:4)
//   y0 = a0 * 2
extern "C" __global__ void __launch_bounds__(256) k{n:02d}_scale(const float* a0, float* y0, int n) {{
    const int p = blockIdx.x * 256 + threadIdx.x;
    if (p < n) y0[p] = {n}.0f * a0[p];
}}
"""
# A row a thread, kept in registers across a barrier: more of them than a thread has.
SPILL = """// row (m.dsl:9)
extern "C" __global__ void __launch_bounds__(1024, 2) k07_spill(const float* a, float* y) {
    float row[64];
    #pragma unroll
    for (int i = 0; i < 64; ++i) row[i] = a[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = row[i] * row[63 - i];
}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_cubin_and_its_report(arch):
    (made,) = build([SCALE.format(n=3)], arch)
    assert made.code[:4] == b"\x7fELF"
    used = made.kernels["k03_scale"]
    assert 0 < used.registers <= 32 and (used.spill_stores, used.spill_loads, used.stack_bytes) == (0, 0, 0)


def test_several_at_once_are_in_order_and_cached(own_cache, monkeypatch):
    texts = [SCALE.format(n=n) for n in range(4)]
    made = build(texts, "sm_80", threads=2)
    assert [list(m.kernels) for m in made] == [[f"k{n:02d}_scale"] for n in range(4)]
    assert len(list(own_cache.glob("*.cubin"))) == 4
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: pytest.fail("compiled again"))
    assert build(texts, "sm_80") == made


def test_the_architecture_is_part_of_the_key_and_a_torn_file_is_made_again(own_cache):
    (made,) = build([SCALE.format(n=1)], "sm_80")
    (file,) = own_cache.glob("*.cubin")
    file.write_bytes(file.read_bytes()[:-5])
    assert build([SCALE.format(n=1)], "sm_80")[0].kernels == made.kernels
    build([SCALE.format(n=1)], "sm_90a")
    assert len(list(own_cache.glob("*.cubin"))) == 2


def test_spills_are_refused_and_named():
    with pytest.raises(KernelError, match=r"k07_spill spills \d+ bytes of registers a thread") as caught:
        build([SPILL], "sm_80")
    assert "k07_spill is row (m.dsl:9)" in str(caught.value)
    (made,) = build([SPILL], "sm_80", strict=False)
    assert made.kernels["k07_spill"].spill_stores > 0


@pytest.mark.parametrize("code", sorted(nvrtc.REFUSED))
def test_advisories_are_refused(code):
    log = f"ptxas info    : ({code}) Potential Performance Loss: wgmma.mma_async instructions are serialized due to x in function 'k07_spill'"
    with pytest.raises(KernelError, match=f"slow code of k07_spill: {code}"):
        nvrtc.check_logs([SPILL], [Cubin(b"", {}, log)])


def test_other_advisories_pass():
    nvrtc.check_logs([SPILL], [Cubin(b"", {"k07_spill": Resources(32, 0, 0, 16, 0)}, "ptxas info : (C7519) something in function 'k07_spill'")])


def test_a_dropped_setmaxnreg_is_refused():
    """The compiler itself says C7508 where launch bounds are missing, without the kernel's name."""
    bare = 'extern "C" __global__ void k00_bare(float* y) { asm volatile("setmaxnreg.inc.sync.aligned.u32 240;"); y[threadIdx.x] = 1; }\n'
    with pytest.raises(nvrtc.SlowCode, match="C7508") as caught:
        build([SCALE.format(n=1) + bare + SCALE.format(n=2)], "sm_90a")
    assert list(caught.value.kernels) == ["k00_bare"]
    log = "ptxas info    : (C7507) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum register requirements."
    with pytest.raises(nvrtc.SlowCode, match="C7507") as caught:
        nvrtc.check_logs([SCALE.format(n=1) + bare.replace("asm volatile", "give_registers<24>(); // ")], [Cubin(b"", {}, log)])
    assert list(caught.value.kernels) == ["k00_bare"]


def test_messages_name_kernel_line_and_model_line():
    text = SCALE.format(n=0) + "\n" + SCALE.format(n=5).replace("m.dsl:4", "m.dsl:77").replace("a0[p]", "missing[p]")
    with pytest.raises(KernelError) as caught:
        build([text], "sm_80")
    said = str(caught.value)
    assert 'kernels.cu:12, in k05_scale: identifier "missing" is undefined' in said
    assert "if (p < n) y0[p] = 5.0f * missing[p];" in said and "k05_scale is scale (m.dsl:77)" in said


def test_messages_after_headers_have_the_lines_of_the_text(monkeypatch):
    monkeypatch.setattr("dslc.backend_cuda.source.header", lambda name: "#pragma once\ninline __device__ float twice(float x) {\n return 2 * x; }\n")
    text = f'// top\n#include "device/twice.cuh"\n\n{SCALE.format(n=5)}'
    (made,) = build([bundle(text)], "sm_80")
    assert list(made.kernels) == ["k05_scale"]
    with pytest.raises(KernelError, match=r"kernels.cu:8, in k05_scale"):
        build([bundle(text.replace("a0[p]", "missing[p]"))], "sm_80")


@pytest.mark.parametrize("arch", ["sm_12", "sm_9000", "hopper", "sm_90z"])
def test_unknown_architectures(arch):
    with pytest.raises(TargetError, match=f"makes no code for '{arch}'"):
        build([SCALE.format(n=0)], arch)


def test_bundles_name_every_header_once(monkeypatch):
    texts = {"a.cuh": '#pragma once\n#include "device/b.cuh"\nA\n', "b.cuh": "#pragma once\nB\n"}
    monkeypatch.setattr("dslc.backend_cuda.source.header", texts.__getitem__)
    made = bundle('#include "device/a.cuh"\n#include "device/b.cuh"\nC\n')
    assert [made.count(word) for word in ("A\n", "B\n", "C\n", "#pragma", "#include")] == [1, 1, 1, 0, 0]


def test_keys_of_content_do_not_depend_on_the_compiler(monkeypatch):
    before, versioned = cache.content_key("a", "b"), cache.key("a", "b")
    monkeypatch.setattr(cache, "compiler_version", lambda: "another")
    assert cache.content_key("a", "b") == before != cache.content_key("ab") and cache.key("a", "b") != versioned
