"""Data meets a program: columns and fed arrays are fitted to input ports by name, with every shape, type and range checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.dtypes import of_numpy
from ..core.errors import DataError, did_you_mean
from ..core.executable import Port
from .data.columns import Column
from .data.dataset import Dataset


def described(dtype: Any, shape: Sequence[Any]) -> str:
    """`float32[2, 3]`."""
    return f"{dtype}[{', '.join(map(str, shape))}]"


def batch_of(ports: Sequence[Port]) -> int:
    """The rows of a batch: the leading axis that all inputs fed by data share. DataError where they do not."""
    sizes = {p.name: p.shape[0] for p in ports if p.shape}
    if not sizes:
        raise DataError("the model has no input with a batch axis")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in sizes.items())
        raise DataError(f"the first axis of every input counts the rows of a batch, but {listed}")
    return next(iter(sizes.values()))


def bind(dataset: Dataset, ports: Sequence[Port]) -> Dataset:
    """The dataset with exactly the columns of `ports`, in their types and row shapes, all values in range; DataError otherwise."""
    columns = {}
    for port in ports:
        if port.name not in dataset.columns:
            known = ", ".join(dataset.columns)
            raise DataError(
                f"nothing feeds the input '{port.name}' (line {port.line}): {dataset.name} has the columns {known}",
                help=f'rename one: {port.name}="{next(iter(dataset.columns), "column")}"',
            )
        columns[port.name] = _fit_column(dataset, port, dataset.columns[port.name])
    return Dataset(columns, dataset.name, dataset.rows, dataset.vocabulary, dataset.classes, dataset.ordered)


def _fit_column(dataset: Dataset, port: Port, column: Column) -> Column:
    row = port.shape[1:]
    same_size = int(np.prod(column.shape, dtype=np.int64)) == int(np.prod(row, dtype=np.int64))
    if column.shape != row and not (column.loose and same_size):
        found, declared = described(column.values.dtype, ("rows", *column.shape)), described(port.dtype, ("rows", *row))
        raise DataError(f"input '{port.name}' is {declared} (line {port.line}), {dataset.name} gives {found}")
    values = _converted(port, column.values, whole_floats=column.loose, place=column.place)
    _check_range(port, values, column.place)
    return column.with_values(values, row)


def on_device(value: Any) -> bool:
    """Whether it is an array in a GPU's memory, which a program there reads where it lies."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) == 2  # kDLCUDA
    return hasattr(type(value), "__cuda_array_interface__")


@dataclass(frozen=True)
class Shorter:
    """An array on a device that is as `port` says, for a program whose own port is as long or longer, which pads it (`padded`) where it lies."""

    value: Any
    port: Port


def padded(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array with its last elements repeated up to a shape: what lies behind is as finite as the data, and as good an index."""
    if value.shape == tuple(shape):
        return value
    if not value.size:
        return np.zeros(shape, value.dtype)
    whole = np.empty(shape, value.dtype)
    whole[tuple(map(slice, value.shape))] = value
    for axis, (n, m) in enumerate(zip(value.shape, shape)):
        if n < m:  # the axes before are whole by now
            before, behind = (slice(None),) * axis, tuple(map(slice, value.shape[axis + 1 :]))
            whole[(*before, slice(n, None), *behind)] = whole[(*before, slice(n - 1, n), *behind)]
    return whole


def fit_inputs(ports: Sequence[Port], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays fed from Python, fitted to the input ports: `fit_input` for each, and no name too many or too few."""
    known = [p.name for p in ports]
    for name in values:
        if name not in known:
            raise DataError(f"the program has no input '{name}'{did_you_mean(name, known)}", notes=[f"its inputs are: {', '.join(known)}"])
    missing = [p for p in ports if p.name not in values]
    if missing:
        raise DataError(f"input '{missing[0].name}' was not given", notes=[f"it is {described(missing[0].dtype, missing[0].shape)}"])
    return {p.name: fit_input(p, values[p.name]) for p in ports}


def fit_host_inputs(ports: Sequence[Port], values: Mapping[str, Any]) -> dict[str, Any]:
    """As `fit_inputs`, but arrays in a GPU's memory stay what they are: a program there checks and reads them where they lie."""
    there = {name: value for name, value in values.items() if on_device(value)}
    return there | fit_inputs([p for p in ports if p.name not in there], {k: v for k, v in values.items() if k not in there})


def fit_input(port: Port, value: Any) -> np.ndarray:
    """One array for one port: its shape, a type of the same kind (Python numbers and lists: any that converts exactly), in its range.

    The array itself comes back, without a copy, where it already fits. DataError says what is declared and what was found.
    """
    loose = not hasattr(value, "dtype")
    try:
        array = np.from_dlpack(value) if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__") else np.asarray(value)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        raise DataError(f"input '{port.name}' cannot be read from a {type(value).__name__}: {error}") from None
    where = f" (line {port.line})" if port.line else ""

    def mismatch() -> DataError:
        return DataError(f"input '{port.name}' is {described(array.dtype, array.shape)}, declared {described(port.dtype, port.shape)}{where}")

    if array.shape != port.shape:
        raise mismatch()
    try:
        found = port.dtype if array.dtype == port.dtype.numpy else of_numpy(array.dtype)
    except KeyError:
        raise mismatch() from None
    if not loose and found.kind != port.dtype.kind and not (found.is_integer and port.dtype.is_integer):
        raise mismatch()

    def place(index: int) -> str:
        return f"at [{', '.join(str(i) for i in np.unravel_index(index, array.shape))}]"

    converted = _converted(port, array, whole_floats=loose, place=place)
    _check_range(port, converted, place)
    return converted


def _converted(port: Port, values: np.ndarray, *, whole_floats: bool, place: Any) -> np.ndarray:
    """The values in the port's type. Integers become floats, bools anything; floats become integers only where that was allowed and is exact."""
    target = port.dtype
    if values.dtype == target.numpy:
        return values
    try:
        found = of_numpy(values.dtype)
    except KeyError:
        raise DataError(f"input '{port.name}' is {target}, the data is {values.dtype}") from None
    if target.is_float or found.is_bool:
        return values.astype(target.numpy)
    if found.is_float and not whole_floats:
        raise DataError(f"input '{port.name}' is {target} (line {port.line}), the data is {found}")
    low, high = (0, 1) if target.is_bool else _limits(target)
    bad = ~((values >= low) & (values <= high))
    if found.is_float:
        bad |= values != np.floor(values)
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(f"input '{port.name}' is {target} (line {port.line}), the data has {values.flat[at]:g} {place(at)}")
    return values.astype(target.numpy)


def _limits(dtype: Any) -> tuple[int, int]:
    """The least and greatest value, as far as float64 tells them apart."""
    if dtype.kind == "uint":
        return 0, (1 << dtype.bits) - 1
    return -(1 << dtype.bits - 1), min((1 << dtype.bits - 1) - 1, (1 << 63) - 1024)


def _check_range(port: Port, values: np.ndarray, place: Any) -> None:
    """An input that is used as an index stays inside what it indexes."""
    if port.bounds is None or not values.size:
        return
    low, high = port.bounds
    least, most = values.min(), values.max()
    if least >= low and most < high:
        return
    bad = (values < low) | (values >= high)
    at = int(np.argmax(bad))
    raise DataError(
        f"input '{port.name}' has the value {values.flat[at]} {place(at)}; it is used as an index and must be in [{low}, {high})"
        + (f" (line {port.line})" if port.line else "")
    )
