"""Every schedule of a product: right on the emulator in three orders of threads, compiled for its GPU without a spill or a word of ptxas's about
wgmma; mistakes that the emulator must find."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import pytest

from dslc.backend_cuda import emulated, nvrtc
from dslc.backend_cuda.kernels import contract, hopper, tiles
from dslc.backend_cuda.program_text import Unit, printed
from dslc.backend_cuda.source import bundle
from dslc.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Erf, Exp, Mul, Neg, broadcast, cast, full_like
from dslc.ir.types import type_of
from dslc.runtime.drivers import emulator

from .products import AMPERE, HOPPER, Case, built, check, expected, run

SIZES = (200, 584, 448)  # rows, columns, terms: more tiles than blocks, edges that overhang
SMALL = (136, 200, 144)
TF32 = (136, 264, 96)
RESIDUAL = (264, 136, 64)
compiles = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")


def case(name, dtype, sizes, layout, tf32=False):
    m, n, k = sizes
    shapes = [(m, k) if layout[0] == "n" else (k, m), (k, n) if layout[1] == "n" else (n, k)]
    axes = [[0, 2] if layout[0] == "n" else [2, 0], [2, 1] if layout[1] == "n" else [1, 2]]
    return Case(name, [(dtype, s) for s in shapes], lambda a, b: Contract.of(a, b, lhs=axes[0], rhs=axes[1], out=[0, 1], dtype=dtype, tf32=tf32))


def made(arch, dtype, sizes, layout, schedules_of, generate, tf32=False):
    """(the case as built, its arrays, its reference, (schedule, functions) of every schedule), kernels named by their schedule's number."""
    sizes = TF32 if tf32 else sizes
    c = case("product", dtype, sizes, layout, tf32)
    b = built(c, arch)
    (op,) = {op for op, _ in b.request.body.makers.values()}
    kernels = []
    for number, schedule in enumerate(schedules_of(contract.epilogue_of(b.request, op))):
        epilogue = contract.epilogue_of(replace(b.request, name=f"{dtype.name}_{layout}_{number}"), op)
        kernels.append((schedule, generate(epilogue, schedule)))
    arrays = c.arrays()
    return b, arrays, expected(b, arrays), kernels


def few(schedules):
    """All tiles once, and one with its terms split."""
    return [s for s in schedules if s.splits == 1] + [s for s in schedules if s.splits == 2][:1]


def whole(schedules):
    return [s for s in schedules if not s.shares]


def on_hopper(layout, dtype=BFLOAT16, tf32=False, arch=HOPPER, sizes=SIZES, chosen=whole):
    def schedules(epilogue):
        product = contract.hopper_product(epilogue)
        return chosen(hopper.schedules(product))

    return made(arch, dtype, sizes, layout, schedules, lambda e, s: hopper.generate(contract.hopper_product(e), s), tf32)


def shared_out(schedules):
    """As many shares as there are multiprocessors, and two for each tile, more than can be made at once."""
    found = {(s.rows, s.columns, s.turns, s.shares): s for s in schedules if s.shares}
    return [found[128, 256, False, 5], found[128, 128, True, 5], found[256, 128, False, 6]]


def on_any(dtype, layout, tf32=False, sizes=SMALL, chosen=few):
    def schedules(epilogue):
        return chosen([s for s, _ in tiles.schedules(tiles.product_of(epilogue))])

    return made(AMPERE, dtype, sizes, layout, schedules, lambda e, s: tiles.generate(tiles.product_of(e), s), tf32)


def whole_text(b, kernels):
    units = [Unit(g.functions[0].symbol, "contract", "product", (), None, 0, 0, g.includes, list(g.functions)) for _, g in kernels]
    return bundle(printed("schedules", units, b.request.arch).whole)


def check_all(found, terms):
    b, arrays, wanted, kernels = found
    code = emulated.build(whole_text(b, kernels), checked=True)
    for schedule, generated in kernels:
        for order in emulator.ORDERS:
            check(run(code, generated, b.request, arrays, order), wanted, terms, f"{schedule}, {order}")


@pytest.fixture(scope="module", autouse=True)
def context():
    with nn.context(), ir.Location.unknown():
        yield


@pytest.mark.parametrize("layout", ["nn", "tt"])
def test_hopper_on_the_emulator(layout):
    check_all(on_hopper(layout), SIZES[2])


def test_hopper_on_the_emulator_in_tf32():
    check_all(on_hopper("nt", FLOAT32, tf32=True), TF32[2])


def in_shares():
    """Tiles that overhang, of 7 steps: blocks begin and end within them, make parts of several, or less than one."""
    return on_hopper("tn", arch=replace(HOPPER, sms=5), sizes=(136, 264, 448), chosen=shared_out)


def test_hopper_shares_steps_out():
    check_all(in_shares(), 448)


def test_many_parts_are_added_by_several_threads():
    """Of a result that hangs over: 20 shares of one tile, four threads a sum; 12 splits of the terms, two."""
    arch = replace(HOPPER, sms=20)
    check_all(on_hopper("nt", arch=arch, sizes=(72, 136, 3840), chosen=lambda every: [s for s in every if s.shares == 20][:1]), 3840)
    check_all(on_any(FLOAT64, "nn", sizes=(40, 72, 448), chosen=lambda every: [s for s in every if s.splits == 12][-1:]), 448)


def added(y, bias, x):
    return Add.of(Add.of(y, broadcast(bias, type_of(y).shape, [1])), x)


def slope_of_gelu(y, bias, x):
    """Of what takes many registers."""
    bell = Exp.of(Neg.of(Mul.of(x, x)))
    rising = Add.of(full_like(x, 0.5), Mul.of(full_like(x, 0.5), Erf.of(Mul.of(x, full_like(x, 0.7071)))))
    return Mul.of(added(y, bias, x), Add.of(rising, Mul.of(x, Mul.of(bell, full_like(x, 0.3989)))))


def with_residual(dtype, epilogue_of_sums=added, sizes=RESIDUAL):
    """A sum with a bias and a residual by every tile; rows and columns overhang, so that some pieces have no place."""
    m, n, k = sizes

    def build(x, w, bias, residual):
        y = Contract.of(x, w, lhs=[0, 2], rhs=[1, 2], out=[0, 1], dtype=FLOAT32)
        return cast(epilogue_of_sums(y, bias, cast(residual, FLOAT32)), BFLOAT16)

    c = Case("residual", [(BFLOAT16, (m, k)), (BFLOAT16, (n, k)), (FLOAT32, (n,)), (dtype, (m, n))], build)
    b = built(c, HOPPER)
    (op,) = {op for op, _ in b.request.body.makers.values() if op.structure == "contract"}
    product = contract.hopper_product(contract.epilogue_of(b.request, op))
    every = [s for s in hopper.schedules(product) if not s.shares]
    kernels = []
    for number, schedule in enumerate(every):
        epilogue = contract.epilogue_of(replace(b.request, name=f"residual_{dtype.name}_{number}"), op)
        kernels.append((schedule, hopper.generate(contract.hopper_product(epilogue), schedule)))
        assert "copy_async16(ahead0" in kernels[-1][1].functions[0].text
    arrays = c.arrays()
    return b, arrays, expected(b, arrays), kernels


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32])
def test_hopper_loads_a_residual_ahead(dtype):
    b, arrays, wanted, kernels = with_residual(dtype)
    code = emulated.build(whole_text(b, kernels), checked=True)
    for schedule, generated in kernels:
        for order in emulator.ORDERS:
            check(run(code, generated, b.request, arrays, order), wanted, RESIDUAL[2], f"{schedule}, {order}")


@pytest.mark.parametrize(("dtype", "layout"), [(BFLOAT16, "nn"), (FLOAT16, "tt"), (FLOAT32, "nn"), (FLOAT32, "tt"), (FLOAT32, "nt"), (FLOAT64, "nt")])
def test_tiles_on_the_emulator(dtype, layout):
    check_all(on_any(dtype, layout), SMALL[2])


@pytest.mark.parametrize("layout", ["nn", "tt"])
def test_tiles_on_the_emulator_in_tf32(layout):
    found = on_any(FLOAT32, layout, tf32=True)
    assert all("tensor cores in tf32" in generated.functions[0].schedule for _, generated in found[3])
    check_all(found, TF32[2])


@compiles
@pytest.mark.parametrize(("dtype", "layout", "tf32"), [(BFLOAT16, "nt", False), (FLOAT16, "tn", False), (FLOAT32, "nt", True)])
def test_hopper_compiles_well(dtype, layout, tf32):
    b, _, _, kernels = on_hopper(layout, dtype, tf32)
    (cubin,) = nvrtc.build([whole_text(b, kernels)], "sm_90a")
    assert not re.search(r"C75\d\d", cubin.log), cubin.log
    for schedule, generated in kernels:
        used = cubin.kernels[generated.functions[0].symbol]
        assert used.stack_bytes == 0
        assert used.registers == 168, f"{schedule}: 384 threads begin with 168 registers, to share 40 + 232 + 232"
        assert generated.functions[0].shared_bytes + used.shared_bytes <= HOPPER.shared_bytes


@compiles
def test_what_is_loaded_ahead_leaves_registers():
    """However much is made of a turn's sums, and of tiles with the most of these: several turns at once would spill, as ptxas makes them where
    no test of a border lies between."""
    b, _, _, kernels = with_residual(BFLOAT16, slope_of_gelu, (512, 512, 64))
    most = [pair for pair in kernels if pair[0].sums == 128]
    assert len(most) == 5
    (cubin,) = nvrtc.build([whole_text(b, most[1:3])], "sm_90a")
    assert all(used.spill_stores == used.stack_bytes == 0 for used in cubin.kernels.values())


@compiles
@pytest.mark.parametrize(
    ("dtype", "layout", "tf32"),
    [
        (BFLOAT16, "nt", False),
        (FLOAT16, "tn", False),
        (FLOAT32, "nt", False),
        (FLOAT32, "nn", False),
        (FLOAT32, "tn", False),
        (FLOAT64, "nn", False),
        (FLOAT32, "nt", True),
        (FLOAT32, "tn", True),
    ],
)
def test_tiles_compile_well(dtype, layout, tf32):
    b, _, _, kernels = on_any(dtype, layout, tf32)
    (cubin,) = nvrtc.build([whole_text(b, kernels)], "sm_80")
    assert all(used.stack_bytes == 0 for used in cubin.kernels.values())


@pytest.mark.parametrize(
    ("layout", "dtype", "size", "wanted"),
    [("nn", FLOAT32, 4096, (128, 128, 16, 2)), ("nt", FLOAT32, 4096, (256, 128, 32, 4)), ("tn", FLOAT32, 4096, (256, 128, 16, 4)),
     ("nn", FLOAT32, 4095, (128, 128, 16, 4)), ("nn", FLOAT64, 4096, (128, 128, 8, 4))],
)  # fmt: skip
def test_large_products_have_128_sums_a_thread(layout, dtype, size, wanted):
    """Where both operands are copied 16 bytes at a time, and the sums have 4 bytes."""
    b = built(case("product", dtype, (size,) * 3, layout), HOPPER)
    (op,) = {op for op, _ in b.request.body.makers.values()}
    s, _ = min(tiles.schedules(tiles.product_of(contract.epilogue_of(b.request, op))), key=lambda pair: pair[1])
    assert (s.rows, s.columns, s.depth, s.tall) == wanted


WRONG_SUMS = ""
MISTAKES = {
    "no wait for the copies": (
        r"mbarrier_wait\(full \+ stage, phase\);", "", r"by a warpgroup's product(, no wait for the copy| while the copy there that thread 0 issued)"
    ),
    "a stage given back too early": (r"wgmma_wait<1>\(\);", "if (lane == 0) mbarrier_arrive(empty + stage);", "no wait for the product between them"),
    "sums read before the products are done": (r"wgmma_wait<0>\(\);", "", "no wait for the product between them"),
    "a wrong stride of the operand": (r", 1024\);", ", 512);", WRONG_SUMS),
    "a wrong swizzle": (r"(?<=wgmma)", "", WRONG_SUMS),  # in the tensor maps
    "products without a fence": (r"wgmma_fence\(\);", "", "no fence between what threads may have done"),
    "more registers than there are": ("take_registers<232>", "take_registers<240>", "one waits for ever"),
    "too few bytes expected": (r"mbarrier_arrive_expect\(full \+ stage, (\d+)\)", "mbarrier_arrive_expect(full + stage, 1024)", "deadlock"),
}  # fmt: skip


@functools.cache
def mistaken():
    """One schedule with each mistake, in one text."""
    b, arrays, wanted, kernels = on_hopper("nn")
    _, generated = next((s, g) for s, g in kernels if (s.rows, s.columns, s.turns) == (128, 128, True))
    (right,) = generated.functions
    made = {}
    for number, (name, (pattern, instead, _)) in enumerate(MISTAKES.items()):
        text, count = re.subn(pattern, instead, right.text)
        assert count, name
        parameters = tuple(map(unswizzled, right.parameters)) if name == "a wrong swizzle" else right.parameters
        made[name] = replace(generated, functions=(replace(right, symbol=f"mistake{number}", text=text, parameters=parameters),))
    return b, arrays, wanted, made, emulated.build(whole_text(b, [(None, g) for g in made.values()]), checked=True)


def unswizzled(p):
    return replace(p, tensor_map=replace(p.tensor_map, swizzle=0)) if p.tensor_map else p


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulator_finds(mistake, order):
    """Copies, products and their barriers at fault, in every order of the threads; wrong places give wrong sums."""
    b, arrays, wanted, made, code = mistaken()
    words = MISTAKES[mistake][2]
    with pytest.raises(AssertionError if words == WRONG_SUMS else emulator.KernelFault, match=words or "are off"):
        check(run(code, made[mistake], b.request, arrays, order), wanted, SIZES[2], mistake)
