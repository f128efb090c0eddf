"""How a Fourier transform of some length is done: its passes, their butterflies, and the tables of factors that they read.

Lengths whose prime factors are small go through Stockham passes of radix 4, 2, 3, 5, ...; others become a convolution with a chirp, by transforms of
a power of two (Bluestein 1970).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import numpy as np

from dslc.core.dtypes import DType

LARGEST_RADIX = 13  # a larger prime factor makes the length go through a chirp


@dataclass(frozen=True)
class FourierPlan:
    """A length `n`, done by passes of `size` points with these radices; `chirp` where size is not n."""

    n: int
    size: int
    radices: tuple[int, ...]

    @property
    def chirp(self) -> bool:
        return self.size != self.n


def plan_of(n: int) -> FourierPlan:
    """The plan of a length."""
    radices = _radices(n)
    if radices is not None:
        return FourierPlan(n, n, radices)
    size = 1 << (2 * n - 2).bit_length()
    return FourierPlan(n, size, _radices(size) or ())


def _radices(n: int) -> tuple[int, ...] | None:
    """Factors up to LARGEST_RADIX whose product is n, fours first; None where there are larger primes."""
    out = []
    for r in (4, 2, 3, 5, 7, 11, 13):
        while n % r == 0:
            out.append(r)
            n //= r
    return tuple(out) if n == 1 else None


def tables_of(plan: FourierPlan, dtype: DType) -> list[np.ndarray]:
    """exp(-2 pi i k / size), and for a chirp exp(-pi i j^2 / n) and the transform of its conjugate; real parts, then imaginary ones, each."""
    found = [np.exp(-2j * pi * np.arange(plan.size) / plan.size)]
    if plan.chirp:
        squares = np.arange(plan.n, dtype=np.int64) ** 2 % (2 * plan.n)
        chirp = np.exp(-1j * pi * squares / plan.n)
        wide = np.zeros(plan.size, complex)
        wide[: plan.n] = chirp.conj()
        wide[plan.size - plan.n + 1 :] = chirp[1:][::-1].conj()
        found += [chirp, np.fft.fft(wide) / plan.size]
    return [np.concatenate([z.real, z.imag]).astype(dtype.numpy) for z in found]


Complex = tuple[Any, Any]  # the real and the imaginary part, values of a backend's scalars


def times(s: Any, a: Complex, b: Complex) -> Complex:
    """The product of two complex numbers; `s` is a backend's `ir.scalar.Scalars`."""
    return s.sub(s.mul(a[0], b[0]), s.mul(a[1], b[1])), s.add(s.mul(a[0], b[1]), s.mul(a[1], b[0]))


def butterfly(s: Any, dtype: DType, z: Sequence[Complex]) -> list[Complex]:
    """The transform of a few points."""
    r = len(z)

    def plus(a: Complex, b: Complex) -> Complex:
        return s.add(a[0], b[0]), s.add(a[1], b[1])

    def minus(a: Complex, b: Complex) -> Complex:
        return s.sub(a[0], b[0]), s.sub(a[1], b[1])

    if r == 2:
        return [plus(z[0], z[1]), minus(z[0], z[1])]
    if r == 4:
        a, b, c, d = plus(z[0], z[2]), minus(z[0], z[2]), plus(z[1], z[3]), minus(z[1], z[3])
        turned = d[1], s.neg(d[0])  # -i d
        return [plus(a, c), plus(b, turned), minus(a, c), minus(b, turned)]
    out = []
    for k in range(r):
        total = z[0]
        for j in range(1, r):
            angle = -2 * pi * (j * k % r) / r
            total = plus(total, times(s, z[j], (s.const(cos(angle), dtype), s.const(sin(angle), dtype))))
        out.append(total)
    return out
