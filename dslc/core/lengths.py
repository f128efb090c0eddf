"""Sizes that depend on the lengths of a run: polynomials in the bounded dimensions of a model (`dims time<=1024`), and in quotients of them.

A quotient stands where a dimension does, under a name that tells it: `(time+1)//2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

DIVISORS = 16  # of quotients: by more none is looked for
Term = tuple[tuple[str, ...], float]  # the product of some dimensions, each once, and a factor


@dataclass(frozen=True)
class Length:
    """A sum of terms in the order of their dimensions; `2*time + 1` is ((), 1), (("time",), 2). No factor is 0. Factors of sizes are integers."""

    terms: tuple[Term, ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether it is the same for all lengths."""
        return all(not names for names, _ in self.terms)

    @property
    def dims(self) -> set[str]:
        """Dimensions, and quotients of them."""
        return {name for names, _ in self.terms for name in names}

    def at(self, sizes: Mapping[str, float]) -> Any:
        """Its value where the dimensions have these sizes."""
        return sum(factor * prod(size_of(name, sizes) for name in names) for names, factor in self.terms)

    def __add__(self, other: Length | int) -> Length:
        return _made([*self.terms, *length(other).terms])

    def __sub__(self, other: Length | int) -> Length:
        return self + length(other) * -1

    def __mul__(self, other: Length | int) -> Length:
        """ValueError where a dimension would be squared."""
        return _made([(_joined(a, b), f * g) for a, f in self.terms for b, g in length(other).terms])

    def least(self, low: Mapping[str, int], high: Mapping[str, int]) -> float:
        """No greater than the least value between two sizes of every dimension: each dimension and quotient enters linearly, so that it is at a
        corner."""
        names = sorted(self.dims)
        return min(self.at(dict(zip(names, corner))) for corner in product(*((size_of(n, low), size_of(n, high)) for n in names)))

    def __str__(self) -> str:
        return " + ".join("*".join([*([f"{f:g}"] if f != 1 or not names else []), *names]) for names, f in reversed(self.terms)) or "0"


def quotient(dim: str, plus: int, by: int) -> str:
    """The name of (dim + plus) // by."""
    return f"({dim}+{plus})//{by}"


def parts_of(name: str) -> tuple[str, int, int]:
    """The dimension of a quotient, what is added to it, what that is divided by; a dimension's own are 0 and 1."""
    found = re.fullmatch(r"\((\w+)\+(\d+)\)//(\d+)", name)
    return (found[1], int(found[2]), int(found[3])) if found else (name, 0, 1)


def size_of(name: str, sizes: Mapping[str, float]) -> Any:
    """The size of a dimension or quotient where dimensions have these sizes."""
    if name in sizes:
        return sizes[name]
    dim, plus, by = parts_of(name)
    return (sizes[dim] + plus) // by


def extent_name(dim: str) -> str:
    """The name of the rank-0 input by which a program is told how long a dimension is in this run."""
    return f"size({dim})"


def length(value: Length | int) -> Length:
    """A number as a length."""
    return value if isinstance(value, Length) else _made([((), value)])


def of_terms(terms: Sequence[Any]) -> Length:
    """The length that `terms` described, from what JSON keeps of it."""
    return Length(tuple((tuple(names), factor) for names, factor in terms))


def _joined(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    if set(a) & set(b):
        raise ValueError("a dimension times itself")
    return tuple(sorted((*a, *b)))


def _made(terms: Sequence[Term]) -> Length:
    total: dict[tuple[str, ...], float] = {}
    for names, factor in terms:
        total[names] = total.get(names, 0) + factor
    return Length(tuple(sorted((names, factor) for names, factor in total.items() if factor)))


def fitted(low: Mapping[str, int], high: Mapping[str, int], value: Callable[[Mapping[str, int]], float]) -> Length:
    """The length with the given value at every corner of the box between two sizes of each dimension."""
    names = list(low)
    out = length(0)
    for corner in product((False, True), repeat=len(names)):
        at = {n: (high if up else low)[n] for n, up in zip(names, corner)}
        weight = Length((((), value(at)),)) if value(at) else Length()
        for n, up in zip(names, corner):
            span = high[n] - low[n]
            rise = Length((((), -low[n] / span), ((n,), 1 / span))) if up else Length((((), high[n] / span), ((n,), -1 / span)))
            weight = weight * _made(rise.terms)
        out = out + weight
    scale = max((abs(factor) for _, factor in out.terms), default=0)
    return _made([(names_of, _whole(factor, scale)) for names_of, factor in out.terms])


def _whole(factor: float, scale: float) -> float:
    """The integer that a factor is but for the rounding of float32, else the factor."""
    near = round(factor)
    return near if abs(factor - near) <= 2e-6 * scale else factor
