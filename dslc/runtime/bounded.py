"""A program of any length: each call runs in the program that was made for its lengths, its inputs padded, its results cut back."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.executable import Executable, Port
from ..core.lengths import Length, extent_name, length, of_terms
from .binding import Shorter, described, fit_inputs, on_device, padded
from .data.dataset import Dataset
from .program import Program, check_out, data_ports
from .store import ParameterStore

NOTE = "lengths"  # of an executable
MOST_CALLS = 256  # of different shapes that are remembered


@dataclass(frozen=True)
class Declared:
    """An input of the model: its type, its axes, the line that declares it."""

    dtype: Any
    axes: tuple[Length, ...]
    line: int


@dataclass(frozen=True)
class _Made:
    """A program with what its note says: its sizes, the axes of ports that vary, the bounds of inputs that vary."""

    program: Program
    sizes: Mapping[str, int]
    axes: Mapping[str, tuple[Length, ...]]
    bounds: Mapping[str, Length]


@dataclass(frozen=True)
class _Call:
    """What a call needs whose inputs have certain shapes: the program, lengths that it is told, the ports of its inputs and results at these lengths,
    the shapes of its inputs, to which those are padded."""

    made: _Made
    extents: Mapping[str, np.int32]
    exact: Sequence[Port]
    wholes: Mapping[str, tuple[int, ...]]
    results: Sequence[Port]


class BoundedProgram:
    """The programs of a model with bounded dimensions, as one. `choose` names the program for the lengths of a call, `make` makes it at its first
    use; `least`: lengths from which on there is one. As a `Program` of fixed ports it is the one at the bounds."""

    def __init__(
        self,
        inputs: Mapping[str, Declared],
        bounds: Mapping[str, int],
        choose: Callable[[Mapping[str, int]], Hashable],
        make: Callable[[Any], Program],
        least: Mapping[str, int] | None = None,
    ):
        self.inputs, self.bounds, self.least = inputs, dict(bounds), least or dict.fromkeys(bounds, 1)
        self._choose, self._make = choose, make
        self._made: dict[Hashable, _Made] = {}
        self._calls: dict[Hashable, _Call] = {}  # by the inputs' shapes
        self._store: ParameterStore | None = None
        self.last: Program | None = None  # that ran

    @property
    def programs(self) -> list[str]:
        """What was made so far: the sizes of each program, `time<=64`."""
        return [str(key) for key in self._made]

    @property
    def made(self) -> Program | None:
        """The program of fixed ports that was made first."""
        return next((made.program for made in self._made.values()), None)

    def told(self) -> str:
        """How many programs were made, and for which lengths."""
        count = len(self._made)
        return f"{count} program{'s' if count != 1 else ''} for the lengths so far: {'; '.join(self.programs)}"

    @property
    def executable(self) -> Executable:
        """The program at the bounds; where it was not made, one for all lengths with the ports that it has at the bounds."""
        key = self._choose(self.bounds)
        known = [self._made[key]] if key in self._made else list(self._made.values())
        made = next((m for m in known if set(m.sizes) == set(self.bounds)), None) or self._at(self.bounds)
        whole = made.program.executable
        names = [extent_name(dim) for dim in made.sizes]
        return replace(whole, ports=tuple(_at_lengths(p, made, self.bounds) for p in whole.ports if p.name not in names))

    def bind(self, store: ParameterStore) -> None:
        self._store = store
        for made in self._made.values():
            self._keep(made.program)

    def _keep(self, program: Program) -> None:
        if self._store is not None:
            self._store.extend(program.executable.ports)
            program.bind(self._store)

    def _at(self, lengths: Mapping[str, int]) -> _Made:
        key = self._choose(lengths)
        if key not in self._made:
            made = _read(self._make(key))
            self._keep(made.program)
            self._made[key] = made
        return self._made[key]

    def ports_for(self, dataset: Dataset) -> list[Port]:
        """The ports that the rows of a dataset fill, at the length of these rows; batches are as large as they may be."""
        rows = {name: (0, *dataset.columns[name].shape) for name in self.inputs if name in dataset.columns}
        lengths = {**self.bounds, **self._told(rows, first=1)}
        made = self._at(lengths)
        ports = made.program.executable.ports_of("input")
        return [_at_lengths(p, made, lengths) for p in ports if p.shape]

    def __call__(
        self, inputs: Mapping[str, Any], *, seed: int = 0, step: int = 0, microbatch: int = 0, out: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """As `runtime.program.Program`. Inputs that the model declares and this program does not need may be among `inputs`. DataError for a length
        beyond a bound, or inputs that disagree about one."""
        shapes = {name: _shape(value) for name, value in inputs.items()}
        call = self._calls.get(key := tuple(shapes.items()))
        if call is None:
            if len(self._calls) == MOST_CALLS:
                self._calls.clear()
            call = self._calls[key] = self._call_for(shapes)
        made = call.made
        self.last = made.program
        given = {name: value for name, value in inputs.items() if name in call.wholes or name not in self.inputs}
        if not made.sizes:
            return made.program(given, seed=seed, step=step, microbatch=microbatch, out=out)
        fed = self._fed(call, given)
        if out:
            check_out(call.results, out)
        same = {name: array for name, array in (out or {}).items() if name not in made.axes}
        found = made.program({**fed, **call.extents}, seed=seed, step=step, microbatch=microbatch, out=same)
        return {p.name: _cut(found[p.name], p.shape, (out or {}).get(p.name)) if p.name in made.axes else found[p.name] for p in call.results}

    def _call_for(self, shapes: Mapping[str, tuple[int, ...]]) -> _Call:
        lengths = self.lengths(shapes)
        made = self._at(lengths)
        ports = {p.name: p for p in made.program.executable.ports_of("input")}
        extents = {n: np.int32(lengths[dim]) for dim in made.sizes if (n := extent_name(dim)) in ports}
        exact = [_at_lengths(p, made, lengths) for p in ports.values() if p.name not in extents]
        results = [_at_lengths(p, made, lengths) for p in made.program.executable.ports_of("output", "loss", "metric")]
        return _Call(made, extents, exact, {name: p.shape for name, p in ports.items()}, results)

    @staticmethod
    def _fed(call: _Call, given: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs of the exact shapes, up to the program's sizes. What lies on a device is padded there, by programs that can (`pads`)."""
        exact, there = call.exact, {}
        if getattr(call.made.program, "pads", False):
            there = {p.name: Shorter(given[p.name], p) for p in exact if p.name in given and on_device(given[p.name])}
            exact = [p for p in exact if p.name not in there]
            given = {name: value for name, value in given.items() if name not in there}
        return {**there, **{name: padded(value, call.wholes[name]) for name, value in fit_inputs(exact, given).items()}}

    def lengths(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """How long the bounded dimensions are in inputs of some shapes."""
        found = self._told(shapes)
        for dim in self.bounds:
            if dim not in found:
                names = [name for name, d in self.inputs.items() if any(dim in axis.dims for axis in d.axes)]
                raise DataError(f"nothing says how long '{dim}' is", notes=[f"inputs with that axis: {', '.join(names)}"])
        return {dim: found[dim] for dim in self.bounds}

    def _told(self, shapes: Mapping[str, Sequence[int]], first: int = 0) -> dict[str, int]:
        """What the axes of some inputs, from the first one on, say about lengths."""
        found: dict[str, tuple[int, str]] = {}
        for name, shape in shapes.items():
            declared = self.inputs.get(name)
            if declared is None or len(shape) != len(declared.axes):
                continue  # the program says what is wrong with it
            for n, axis in list(zip(shape, declared.axes))[first:]:
                if len(axis.dims) == 1:
                    self._note(found, name, shape, n, axis)
        return {dim: n for dim, (n, _) in found.items()}

    def _note(self, found: dict[str, tuple[int, str]], name: str, shape: Sequence[int], n: int, axis: Length) -> None:
        """Takes down the length that one axis says; DataError where that is none, or another one than before."""
        (dim,) = axis.dims
        start = axis.at({dim: 0})
        size, rest = divmod(n - start, axis.at({dim: 1}) - start)
        declared = self.inputs[name]
        where = f" (line {declared.line})" if declared.line else ""
        bounds = ", ".join(f"{d}<={most}" for d, most in self.bounds.items())
        told = f"input '{name}' is {described(declared.dtype, shape)}, declared {described(declared.dtype, declared.axes)} with {bounds}{where}"
        if rest:
            raise DataError(told)
        if not self.least[dim] <= size <= self.bounds[dim]:
            beyond = f"at most {self.bounds[dim]}" if size > self.bounds[dim] else f"at least {self.least[dim]}"
            raise DataError(f"'{dim}' is {size}, and must be {beyond}", notes=[told],
                            help=f"a greater bound: --set {dim}={size}, or load(..., {dim}={size})" if size > self.bounds[dim] else None)  # fmt: skip
        before, first = found.setdefault(dim, (size, name))
        if before != size:
            raise DataError(f"'{dim}' is {before} in '{first}' and {size} in '{name}'", notes=[told])


def _read(program: Program) -> _Made:
    """A program with its note; one of fixed lengths has none."""
    note = json.loads(program.executable.notes.get(NOTE, '{"sizes": {}, "axes": {}, "bounds": {}}'))
    axes = {name: tuple(map(of_terms, shape)) for name, shape in note["axes"].items()}
    return _Made(program, note["sizes"], axes, {name: of_terms(terms) for name, terms in note["bounds"].items()})


def of_any_length(program: Program) -> Program:
    """A program that was made for any lengths, as one that takes them; any other as it is."""
    made = _read(program)
    if not made.sizes:
        return program
    ports = [p for p in program.executable.ports_of("input") if p.name not in map(extent_name, made.sizes)]
    inputs = {p.name: Declared(p.dtype, made.axes.get(p.name) or tuple(map(length, p.shape)), p.line) for p in ports}
    least = json.loads(program.executable.notes[NOTE])["least"]
    told = ", ".join(f"{dim}<={n}" for dim, n in made.sizes.items())
    return BoundedProgram(inputs, made.sizes, lambda lengths: told, lambda key: program, least)


def longest(executable: Executable) -> dict[str, int]:
    """The lengths that a program for any lengths takes as inputs, by name, as long as they may be; none of one for fixed lengths."""
    note = json.loads(executable.notes.get(NOTE, '{"sizes": {}}'))
    inputs = {p.name for p in executable.ports_of("input")}
    return {extent_name(dim): n for dim, n in note["sizes"].items() if extent_name(dim) in inputs}


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of anything that is fed; none for lists that have no shape, of which the program tells more."""
    try:
        return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)
    except ValueError:
        return ()


def _at_lengths(port: Port, made: _Made, lengths: Mapping[str, int]) -> Port:
    """The port as the exact program would have it."""
    shape = tuple(n.at(lengths) for n in made.axes[port.name]) if port.name in made.axes else port.shape
    bounds = (0, made.bounds[port.name].at(lengths)) if port.name in made.bounds else port.bounds
    return replace(port, shape=shape, bounds=bounds)


def attach(program: Program, store: ParameterStore) -> None:
    """Binds a program to a store, which gets what it lacks; programs of any length do so when they are made."""
    if not isinstance(program, BoundedProgram):
        store.extend(program.executable.ports)
    program.bind(store)


def that_ran(program: Program) -> Program:
    """The program of fixed ports that a call of this one ran."""
    return program.last or program if isinstance(program, BoundedProgram) else program


def that_is_made(program: Program) -> Program:
    """One of the programs that this one stands for, if it has made any: of the same model as all of them."""
    return program.made or program if isinstance(program, BoundedProgram) else program


def takes_fewer_rows(program: Program) -> bool:
    """Whether the first axis of every input may be shorter than at its bound."""
    return isinstance(program, BoundedProgram) and all(d.axes and not d.axes[0].fixed for d in program.inputs.values())


def ports_for(program: Program, dataset: Dataset) -> list[Port]:
    """The input ports of a program that the rows of a dataset fill."""
    return program.ports_for(dataset) if isinstance(program, BoundedProgram) else data_ports(program)


def _cut(value: np.ndarray, shape: Sequence[int], out: np.ndarray | None) -> np.ndarray:
    part = value[tuple(slice(0, n) for n in shape)]
    if out is None:
        return np.ascontiguousarray(part)
    out[...] = part
    return out
