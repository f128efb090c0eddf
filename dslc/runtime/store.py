"""The parameters and states of a model, by path: what all its programs bind to."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.dtypes import DType, of_numpy
from ..core.errors import NameError_, ShapeError, TypeError_, did_you_mean
from ..core.executable import Port
from .pages import ALIGNMENT, give_back, zero_bytes


@dataclass(frozen=True)
class Entry:
    """One parameter or state. `role` is "param" or "state"."""

    path: str
    role: str
    dtype: DType
    shape: tuple[int, ...]
    line: int = 0  # where the model file declares it

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


Fill = Callable[[np.ndarray], None]  # brings values to an array of their type and shape


class Value:
    """The values of one path: memory of the host, how often they were written, and how to get them where the newest ones lie elsewhere: on a device,
    yet to be drawn, or in the file that they came from."""

    def __init__(self, memory: np.ndarray):
        self.memory = memory
        self.version = 0
        self.fetch: Fill | None = None  # to be called before the memory is read
        self.source: Fill | None = None  # gives the values of this version again
        self.lock = threading.RLock()
        self._seen: weakref.ref[np.ndarray] | None = None

    def seen(self) -> np.ndarray:
        """The memory for whoever reads or writes it. Arrays made of this one keep it alive, for what it lies on is no array, and while it lives the
        memory is not given back."""
        with self.lock:
            array = self._seen() if self._seen is not None else None
            if array is None:
                data = self.memory.reshape(-1).view(np.uint8)
                array = np.ndarray(self.memory.shape, self.memory.dtype, (ctypes.c_uint8 * data.size).from_buffer(data))  # type: ignore[arg-type]
                self._seen = weakref.ref(array)
            return array

    def drop(self) -> None:
        """Gives the memory back until somebody asks for the values, where they can be had again and nobody holds the memory."""
        with self.lock:
            if self.source is not None and self.fetch is None and (self._seen is None or self._seen() is None) and give_back(self.memory):
                self.fetch = self.source


def aligned_zeros(entries: Sequence[Entry | Port]) -> list[np.ndarray]:
    """A C-contiguous array of zeros for each entry or port, at multiples of `ALIGNMENT`, in one block."""
    sizes = [int(np.prod(e.shape, dtype=np.int64)) * e.dtype.numpy.itemsize for e in entries]
    places = [0, *np.cumsum([-(-n // ALIGNMENT) * ALIGNMENT for n in sizes])]
    block = zero_bytes(places[-1])
    return [block[at : at + n].view(e.dtype.numpy).reshape(e.shape) for e, at, n in zip(entries, places, sizes)]


class ParameterStore(MutableMapping[str, np.ndarray]):
    """Params and states by path, each at one address for the life of the store.

    `store[path]` is a view that cannot be written; `store[path] = value` checks shape and type and copies. Programs write through
    `array(path)` and call `touch(path)`; a program that keeps a packed copy makes it anew when `version(path)` has changed. A program on a device
    says `moved(path, fetch)` of what it wrote there: the array is filled when somebody next asks for it. So are starting values. What came from a
    file (`read_from`) and is read in a form prepared from it alone is in memory no longer (`Value.drop`) than until it is prepared.
    Errors: NameError_ for an unknown path, ShapeError and TypeError_ for a value that does not fit.
    """

    def __init__(self, ports: Iterable[Port | Entry] = ()):
        self._entries: dict[str, Entry] = {}
        self._values: dict[str, Value] = {}
        self._away: set[Value] = set()  # the newest values are not in the host's memory yet
        self._residences: dict[Any, Any] = {}
        self.extend(ports)

    def extend(self, ports: Iterable[Port | Entry]) -> list[str]:
        """Adds zeros for the param and state ports that are not here yet and returns their paths; one that is here must fit."""
        added: list[Entry] = []
        for port in ports:
            if port.role not in ("param", "state"):
                continue
            entry = port if isinstance(port, Entry) else Entry(port.name, port.role, port.dtype, tuple(port.shape), port.line)
            known = self._entries.get(entry.path)
            if known is None:
                self._entries[entry.path] = entry
                added.append(entry)
            elif (known.shape, known.dtype) != (entry.shape, entry.dtype):
                error = ShapeError if known.shape != entry.shape else TypeError_
                raise error(f"{known.role} '{entry.path}' is {known} in one program and {entry} in another")
        self._values.update((e.path, Value(array)) for e, array in zip(added, aligned_zeros(added)))
        return [e.path for e in added]

    def beside(self) -> ParameterStore:
        """A store that shares the memory of all that is here; what it is extended by is its own: caches of a decoder."""
        made = ParameterStore()
        made._entries, made._values = dict(self._entries), dict(self._values)
        made._away, made._residences = self._away, self._residences
        return made

    def copy(self) -> ParameterStore:
        """A store of the same values in memory of its own."""
        made = ParameterStore(self.entries())
        made.assign({path: self[path] for path in self})
        return made

    def entry(self, path: str) -> Entry:
        """Role, type and shape of a path."""
        if path not in self._entries:
            raise NameError_(f"the model has no parameter '{path}'{did_you_mean(path, self._entries)}")
        return self._entries[path]

    def entries(self, role: str | None = None) -> list[Entry]:
        """All entries of a role, in the order of their declaration."""
        return [e for e in self._entries.values() if role in (None, e.role)]

    def value(self, path: str) -> Value:
        """What is known of a path's values; stores beside each other share it."""
        self.entry(path)
        return self._values[path]

    def array(self, path: str) -> np.ndarray:
        """The memory itself, for programs, with the newest values. Whoever writes it calls `touch`."""
        value = self.value(path)
        array = value.seen()  # first: what is held is not dropped
        self.bring(value)
        return array

    def lie_in(self, path: str, array: np.ndarray) -> None:
        """The path's values lie in this memory from now on, which fits and is the store's; before a program binds to it."""
        self.value(path).memory = array
        self.touch(path)

    def moved(self, path: str, fetch: Fill) -> int:
        """Says that a device wrote this path, or will; `fetch(array)` brings the values to the host's memory. Returns the new version."""
        value = self.value(path)
        value.version += 1
        value.fetch, value.source = fetch, None
        self._away.add(value)
        return value.version

    def read_from(self, sources: Mapping[str, Fill]) -> None:
        """Reads the values of some paths, which `sources[path](array)` can do again for as long as nobody writes others. Where one of them fails, all
        are as they were."""
        begun: list[tuple[Value, np.ndarray | None]] = []
        try:
            for path, source in sources.items():
                value = self.value(path)
                begun.append((value, None if value.fetch or value.source or not value.version else value.memory.copy()))
                source(value.memory)
        except BaseException:
            for value, array in begun:
                value.fetch = value.fetch or value.source
                if value.fetch is None:
                    value.memory[...] = 0 if array is None else array
            raise
        self.touch(*sources)
        for path, source in sources.items():
            self.value(path).source = source

    def gather(self) -> None:
        """Brings all values that lie on devices to the host: for programs that keep the arrays' addresses."""
        for value in list(self._away):
            self.bring(value)

    def bring(self, value: Value) -> None:
        """Brings the newest values to the memory."""
        if value.fetch is None:
            return
        with value.lock:  # who comes second waits for the values
            if value.fetch is not None:
                value.fetch(value.memory)
            self._came(value)

    def _came(self, value: Value) -> None:
        value.fetch = None
        self._away.discard(value)

    def residence(self, device: Any, make: Callable[[], Any]) -> Any:
        """What a device keeps of this store, made at the first call; `device` is the key."""
        if device not in self._residences:
            self._residences[device] = make()
        return self._residences[device]

    def version(self, path: str) -> int:
        """How many times the parameter was written."""
        return self.value(path).version

    def touch(self, *paths: str) -> None:
        """Says that these paths were written in place."""
        for path in paths:
            value = self._values.get(path) or self.value(path)
            value.version += 1
            value.source = None
            if value.fetch is not None:
                self._came(value)

    def __getitem__(self, path: str) -> np.ndarray:
        view = self.array(path).view()
        view.flags.writeable = False
        return view

    def __setitem__(self, path: str, value: Any) -> None:
        self._write(path, fitted(self.entry(path), value))

    def _write(self, path: str, array: np.ndarray) -> None:
        value = self._values[path]
        with value.lock:
            np.copyto(value.memory, array, casting="unsafe")
            self.touch(path)

    def __delitem__(self, path: str) -> None:
        raise TypeError_(f"the parameter '{path}' belongs to the model and cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: object) -> bool:
        return path in self._entries

    def __repr__(self) -> str:
        rows = [f"  {e.path}: {e}" + ("" if e.role == "param" else f" ({e.role})") for e in self._entries.values()]
        return "ParameterStore(\n" + "\n".join(rows) + "\n)"

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(v.memory.nbytes for v in self._values.values())

    def copy_values(self, role: str | None = None) -> dict[str, np.ndarray]:
        """Copies of the values of a role."""
        return {e.path: self.array(e.path).copy() for e in self.entries(role)}

    def assign(self, values: Mapping[str, Any]) -> None:
        """Assigns several paths; nothing is written unless all of them fit."""
        ready = {path: fitted(self.entry(path), value) for path, value in values.items()}
        for path, value in ready.items():
            self._write(path, value)

    def load_weights(self, file: str | Path, map: str | Path | None = None) -> list[str]:
        """Brings in the weights of a .safetensors or .npz file; `map` is a file of rules, or the rules. Returns the paths written."""
        from .weights import load_weights

        return load_weights(self, file, map)


def fitted(entry: Entry, value: Any) -> np.ndarray:
    """`value` as an array that can be copied into `entry`: same shape, a type of the same kind, integers in range.

    Python numbers and lists take the entry's type. ShapeError and TypeError_ name the path, what was found and what is expected.
    """
    name = f"{entry.role} '{entry.path}'"
    if not hasattr(value, "dtype"):
        return _from_python(entry, value, name)
    array = value if isinstance(value, np.ndarray) else _to_numpy(value, name)
    try:
        found = of_numpy(array.dtype)
    except KeyError:
        raise TypeError_(f"{name} is {entry}, given {array.dtype}") from None
    given = f"{found}[{', '.join(map(str, array.shape))}]"
    if array.shape != entry.shape:
        raise ShapeError(f"{name} is {entry}, given {given}", help=_transposed(entry.shape, array.shape))
    if found.kind != entry.dtype.kind and not (found.is_integer and entry.dtype.is_integer):
        raise TypeError_(f"{name} is {entry}, given {given}", help=f"convert it first: value.astype('{entry.dtype}')")
    return _cast(entry, array, name)


def _from_python(entry: Entry, value: Any, name: str) -> np.ndarray:
    try:
        plain = np.asarray(value)
    except ValueError:
        raise ShapeError(f"{name} is {entry}, given a list whose rows have different lengths") from None
    if plain.dtype.kind not in "biuf":
        raise TypeError_(f"{name} is {entry}, given {type(value).__name__}")
    if plain.shape != entry.shape:
        raise ShapeError(f"{name} is {entry}, given a value of shape {list(plain.shape)}", help=_transposed(entry.shape, plain.shape))
    if plain.dtype.kind == "f" and not entry.dtype.is_float:
        raise TypeError_(f"{name} is {entry}, given floats")
    return _cast(entry, plain, name)


def _to_numpy(value: Any, name: str) -> np.ndarray:
    """An array of another library, by DLPack or by numpy's protocols."""
    try:
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise TypeError_(f"{name} cannot be read from a {type(value).__name__}: {error}") from None


def _cast(entry: Entry, array: np.ndarray, name: str) -> np.ndarray:
    """To the entry's type: integers in range, and no finite float becomes infinite."""
    if entry.dtype.is_integer:
        _check_integers(entry, array, name)
    with np.errstate(over="ignore"):
        cast = array.astype(entry.dtype.numpy, copy=False)
    if entry.dtype.is_float and cast is not array:
        lost = np.isfinite(array) & ~np.isfinite(cast)
        if lost.any():
            raise TypeError_(f"{name} is {entry}, given {array[lost][0]:g}, which is outside the range of {entry.dtype}")
    return cast


def _check_integers(entry: Entry, array: np.ndarray, name: str) -> None:
    if not array.size:
        return
    bits, signed = entry.dtype.bits, entry.dtype.kind == "int"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise TypeError_(f"{name} is {entry}, given {least if least < low else most}, which is outside [{low}, {high}]")


def _transposed(expected: tuple[int, ...], found: tuple[int, ...]) -> str | None:
    return "it is transposed: give value.T" if len(expected) > 1 and found == expected[::-1] else None
