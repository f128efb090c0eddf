"""The programs of a model whose dimensions are bounded (`dims time<=1024`): few for all lengths, each made when a length first needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

from .core.errors import Error, ShapeError, UnsupportedOp
from .core.lengths import DIVISORS, Length, fitted

if TYPE_CHECKING:
    from .frontend.elaborate import Elaborated
    from .model import Model
    from .passes.lengths import Sample, Varying

SMALLEST = 16  # a shorter length runs in a program of this size, unless that is too long for the model
LOW = (2, 3, 5, 9, 17, 33, 65)  # sizes from which on programs may be alike
ABOVE = 13  # how far above its bound a dimension is while programs are compared: a size that nothing else has
BESIDE = (1, 2, 3, 4)  # further above: what steps with a length, as a quotient does, has stepped there
CLOSELY = tuple(range(1, 2 * DIVISORS))  # where those do not tell one quotient from another
WITHIN = (2, 3)  # parts of the bound that are looked at too


@dataclass(frozen=True)
class Sizes:
    """What a program is made for: dimensions of exactly these sizes, and dimensions of any length up to these."""

    exact: tuple[tuple[str, int], ...] = ()
    up_to: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return ", ".join([*(f"{name}={n}" for name, n in self.exact), *(f"{name}<={n}" for name, n in self.up_to)])


@dataclass
class _Compared:
    """A program and how it varies, while some dimensions are at a size for good."""

    base: Elaborated
    varying: Varying
    inputs: dict[str, tuple[Length, ...]]


@dataclass
class Family:
    """One kind of program of a model. Lengths at the bound have a program of their own without any masks, as have the shortest ones."""

    model: Model
    training: bool
    roles: tuple[str, ...]
    steps: bool
    fetch: Sequence[str] = ()
    _known: dict[tuple[tuple[str, int], ...], _Compared] = field(default_factory=dict)

    @property
    def bounds(self) -> dict[str, int]:
        return self.model.checked.bounds

    @property
    def inputs(self) -> dict[str, tuple[Length, ...]]:
        """The shape of each declared input. ShapeError where a bounded dimension cannot be told from them, or cannot vary."""
        found = self._compared({}).inputs
        for dim in self.bounds:
            if not any(n.dims == {dim} for shape in found.values() for n in shape):
                raise ShapeError(f"no input has an axis that says how long '{dim}' is", help=f"a fixed length: dims {dim}=SIZE")
        if all(self.bounds[d] >= n for d, n in self._compared({}).varying.low.items()):
            self.elaborated(Sizes((), tuple(self.bounds.items())))  # an op that cannot be made for any length is told now
        return found

    def sizes_for(self, lengths: Mapping[str, int]) -> Sizes:
        """The program that runs these lengths."""
        exact = {d: n for d, n in lengths.items() if n in (1, self.bounds[d])}
        while len(exact) < len(lengths):
            varying = self._compared(exact).varying
            alone = {d: lengths[d] for d, low in varying.low.items() if lengths[d] < low or lengths[d] in varying.odd.get(d, ())}
            if not alone:
                break
            exact |= alone
        return Sizes(tuple(sorted(exact.items())), tuple((d, self._bucket(d, n)) for d, n in lengths.items() if d not in exact))

    def whole(self) -> Sizes:
        """The one program that takes all lengths but the shortest ones. ShapeError where some between need programs of their own."""
        for dim, odd in self._compared({}).varying.odd.items():
            if between := sorted(n for n in odd if n < self.bounds[dim]):
                told = ", ".join(map(str, between))
                raise ShapeError(f"no one program takes all lengths of '{dim}': the model decides otherwise for {told}", help=f"dims {dim}=SIZE")
        return Sizes((), tuple(self.bounds.items()))

    def _bucket(self, dim: str, n: int) -> int:
        size = SMALLEST
        while size < n:
            size *= 2
        return min(size, self.bounds[dim])

    def programs(self) -> list[Sizes]:
        """The programs that lengths share, and the one at the bounds, the longest first. Those of single lengths below are left out."""
        found: dict[Sizes, None] = {}
        for lengths in product(*(sorted({n for size in self.windows(dim) for n in (size, max(size - 1, 1))}) for dim in self.bounds)):
            sizes = self.sizes_for(dict(zip(self.bounds, lengths)))
            if all(n == self.bounds[dim] for dim, n in sizes.exact):
                found[sizes] = None
        return list(found)[::-1]

    def windows(self, dim: str) -> list[int]:
        """The sizes that a dimension's programs are made for, ascending."""
        return sorted({self._bucket(dim, n) for n in range(1, self.bounds[dim] + 1)})

    def check_prefixes(self, dim: str) -> None:
        """UnsupportedOp where a number follows from a length: what a causal program holds of the past is another for each length then."""
        from .passes.lengths import cannot_vary

        others = {d: n for d, n in self.bounds.items() if d != dim}
        varying = self._compared(others).varying
        for value, found in varying.attributes.items():
            if found.keys() & {"value", "offsets"}:
                raise cannot_vary(UnsupportedOp, [dim], value.owner.opview, "what is kept of the past follows from it")

    def elaborated(self, sizes: Sizes) -> Elaborated:
        """The model's program for these sizes, in a module that passes may change."""
        from .ir.mlir import ir
        from .passes.bounded import Bounded

        compared = self._compared(dict(sizes.exact))
        checked = self.model.checked
        kept = {p.path: p.type for p in (*checked.parameters, *checked.states)}
        gradients = self.steps or compared.base.builder.has_gradients
        made = Bounded(compared.varying, dict(sizes.up_to), compared.varying.low, self.bounds, kept, gradients)
        with compared.base.context, ir.Location.unknown():
            module = ir.Module.create()
            made.run(module)
        return replace(compared.base, module=module, settings=checked.settings, generate=checked.generate, dims=checked.dims, frame=checked.frame)

    def told(self) -> list[str]:
        """For each dimension the programs that there may be, for people."""
        out = []
        for dim, bound in self.bounds.items():
            varying = self._compared({}).varying
            least = varying.low[dim]
            buckets = sorted({self._bucket(dim, n) for n in range(least, bound)})
            odd = sorted(n for n in varying.odd.get(dim, ()) if n < bound)
            names = [*(f"{dim}={n}" for n in [*range(1, min(least, bound)), *odd]), *(f"{dim}<={n}" for n in buckets), f"{dim}={bound}"]
            out.append(f"{dim}: any length up to {bound}, in at most {len(names)} programs: {', '.join(names)}")
        return out

    def _compared(self, exact: Mapping[str, int]) -> _Compared:
        """ShapeError, or what the model itself raises, where other lengths make other programs."""
        key = tuple(sorted(exact.items()))
        if key not in self._known:
            self._known[key] = self._compare(dict(key))
        return self._known[key]

    def _compare(self, exact: dict[str, int], steps: Sequence[int] = BESIDE) -> _Compared:
        from .passes.lengths import Unclear, compare

        free = [d for d in self.bounds if d not in exact]
        high = {d: self.bounds[d] + ABOVE + 4 * k for k, d in enumerate(free)}
        beside = [{**high, d: high[d] + k} for k in steps for d in free]
        beside += [{d: n + k for d, n in high.items()} for k in steps if len(free) > 1]
        shapes: list[dict[str, tuple[int, ...]]] = []
        try:
            base, first = self._sample(exact, high, shapes)
        except Error as error:
            self._sample(exact, {d: max(self.bounds[d] - 1, 1) for d in free}, [])  # the same error, if need be, with sizes that may be
            raise error
        others = [self._sample(exact, sizes, shapes)[1] for sizes in beside]
        failed: Error | None = None
        for size in LOW:
            low = {d: min(size, max(self.bounds[d], LOW[0])) for d in free}
            corners = [dict(zip(free, corner)) for corner in product(*((low[d], high[d]) for d in free))]
            corners += [inside for part in WITHIN if low != (inside := {d: max(self.bounds[d] // part, size) for d in free})]
            del shapes[1 + len(beside) :]
            try:
                short = [self._sample(exact, sizes, shapes)[1] for sizes in corners if sizes != high]
                varying = compare([first, *others, *short], low, high)
            except Unclear as error:
                if steps is CLOSELY:
                    raise error
                return self._compare(exact, CLOSELY)
            except Error as error:
                failed = failed or error
                if size >= max(self.bounds.values()) or not free:
                    break
                continue
            at = [tuple(s.sizes.values()) for s in (first, *others, *short)]
            return _Compared(base, varying, _shapes(at, shapes, low, high))
        assert failed is not None
        raise failed

    def _sample(self, exact: Mapping[str, int], sizes: Mapping[str, int], shapes: list[dict[str, tuple[int, ...]]]) -> tuple[Elaborated, Sample]:
        """The model at these sizes, without what the program does not need; notes the shapes of the inputs that it declares."""
        from .ir.types import type_of
        from .passes.lengths import Sample
        from .passes.prune import Prune

        try:
            made = self.model.elaborate(self.training, self.fetch, {**exact, **sizes})
        except Error as error:
            told = ", ".join(f"{d} = {n}" for d, n in {**exact, **sizes}.items())
            error.notes = [*error.notes, f"{_bounded(self.bounds)}, and this is so with {told}"]
            raise
        shapes.append({name: type_of(value).shape for value, name in made.builder.inputs.items()})
        with made.context, made.location:
            Prune(self.roles).run(made.module)
        return made, Sample(dict(sizes), made.module, made.builder.compared)


def _bounded(bounds: Mapping[str, int]) -> str:
    return " and ".join(f"'{d}' may be anything up to {n}" for d, n in bounds.items())


def _shapes(
    at: Iterable[tuple[int, ...]], shapes: Sequence[Mapping[str, tuple[int, ...]]], low: Mapping[str, int], high: Mapping[str, int]
) -> dict[str, tuple[Length, ...]]:
    """The shapes of inputs as lengths."""
    places = list(at)

    def axis(name: str, k: int) -> Length:
        known = {place: shape[name][k] for place, shape in zip(places, shapes)}
        return fitted(low, high, lambda sizes: known[tuple(sizes.values())])

    return {name: tuple(axis(name, k) for k in range(len(shape))) for name, shape in shapes[0].items()}
