"""What is read of the processor."""

from dataclasses import replace

import pytest

from dslc.backend_cpu.gemm_schedule import strip_cost
from dslc.backend_cpu.machine import Machine, fmas_of


def cpuinfo(vendor: str, family: int, model: int, name: str) -> str:
    lines = ["processor\t: 0", f"vendor_id\t: {vendor}", f"cpu family\t: {family}", f"model\t\t: {model}", f"model name\t: {name}", "stepping\t: 1"]
    return "\n".join([*lines, "", *lines[:3], "model\t\t: 1", ""])  # a second one, of another kind


AMD, INTEL = "AuthenticAMD", "GenuineIntel"
PROCESSORS = [
    (AMD, 26, 2, "AMD EPYC", 16, 2),  # Turin
    (AMD, 26, 0x11, "AMD EPYC 9845", 16, 2),  # Turin Dense
    (AMD, 26, 0x44, "AMD Ryzen 9 9950X", 16, 2),
    (AMD, 26, 0x24, "AMD Ryzen AI 9 HX 370", 16, 1),
    (AMD, 26, 0x60, "AMD Ryzen AI 7 350", 16, 1),
    (AMD, 26, 0x70, "AMD Ryzen AI Max+ 395", 16, 2),
    (AMD, 25, 0x11, "AMD EPYC 9R14", 16, 1),  # Genoa
    (AMD, 25, 0x11, "AMD EPYC 9R14", 8, 2),  # and without AVX-512
    (AMD, 25, 0x01, "AMD EPYC 7763", 8, 2),
    (AMD, 23, 0x31, "AMD EPYC 7742", 8, 2),
    (AMD, 23, 0x01, "AMD EPYC 7601", 8, 1),
    (INTEL, 6, 0x55, "Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz", 16, 2),
    (INTEL, 6, 0x55, "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", 16, 2),
    (INTEL, 6, 0x55, "Intel(R) Xeon(R) Gold 5122 CPU @ 3.60GHz", 16, 2),
    (INTEL, 6, 0x55, "Intel(R) Xeon(R) Gold 5118 CPU @ 2.30GHz", 16, 1),
    (INTEL, 6, 0x55, "Intel(R) Xeon(R) Silver 4114 CPU @ 2.20GHz", 16, 1),
    (INTEL, 6, 0x6A, "Intel(R) Xeon(R) Silver 4310 CPU @ 2.10GHz", 16, 2),  # Ice Lake: all of them
    (INTEL, 6, 0x8F, "Intel(R) Xeon(R) Platinum 8488C", 16, 2),
    (INTEL, 6, 0x8C, "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", 16, 1),
    (INTEL, 6, 0xA7, "11th Gen Intel(R) Core(TM) i9-11900K @ 3.50GHz", 16, 1),
    (INTEL, 6, 0x9E, "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", 8, 2),
    (INTEL, 6, 0xBE, "Intel(R) N100", 8, 1),
    ("none", 99, 1, "a processor of tomorrow", 16, 2),
]


@pytest.mark.parametrize("vendor, family, model, name, lanes, fmas", PROCESSORS)
def test_products_a_cycle(vendor: str, family: int, model: int, name: str, lanes: int, fmas: int) -> None:
    assert fmas_of(cpuinfo(vendor, family, model, name), lanes) == fmas


def test_products_a_cycle_where_nothing_is_said() -> None:
    assert fmas_of("flags : avx2 fma", 8) == 2


def test_they_count_for_objects_and_for_schedules() -> None:
    two = Machine(16, 32, 48 << 10, 1 << 20, 2, "any", fmas=2)
    one = replace(two, fmas=1)
    assert one.key() != two.key()
    assert strip_cost(9, 3, one) - strip_cost(9, 3, two) == pytest.approx(27 / 2)  # cycles of a k
