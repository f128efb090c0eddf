"""The device copies of a store's parameters and states: one set for each store and driver, shared by all programs there.

A copy is as new as the version of its value that it was made at. Where the host has written since, it is uploaded before the next run; where a
program wrote on the device, the store is told and fetches the values when somebody reads them. Stores beside each other share the copies of what they
share.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...core.executable import Port
from .device import ALIGNMENT, Driver

if TYPE_CHECKING:
    from ..store import ParameterStore, Value


class Block:
    """Device memory that is given back with its last user."""

    def __init__(self, driver: Driver, size: int):
        self.driver, self.address = driver, driver.allocate(size)
        weakref.finalize(self, driver.release, self.address)


@dataclass
class _Copy:
    """`version` is that of the values which the device holds; None: not known. It fetches them: `copy(array)` fills a host array."""

    block: Block
    address: int
    version: int | None = None

    def __call__(self, array: np.ndarray) -> None:
        if array.nbytes:
            self.block.driver.download(array, self.address)


class Placed(NamedTuple):
    """A path's value on the host and its copy on the device."""

    path: str
    value: Value
    copy: _Copy


class Residence:
    """Where a store's values lie on one driver. It holds no reference to the store: the store holds it."""

    def __init__(self, driver: Driver):
        self._driver = driver
        self._copies: weakref.WeakKeyDictionary[Value, _Copy] = weakref.WeakKeyDictionary()

    def place(self, store: ParameterStore, ports: Iterable[Port]) -> dict[str, Placed]:
        """Where the ports lie, by path; memory for those that had none is one allocation."""
        values = {p.name: store.value(p.name) for p in ports}
        fresh = [v for v in values.values() if v not in self._copies]
        if fresh:
            block = Block(self._driver, sum(_padded(v.memory.nbytes) for v in fresh))
            address = block.address
            for value in fresh:
                self._copies[value] = _Copy(block, address)
                address += _padded(value.memory.nbytes)
        return {path: Placed(path, v, self._copies[v]) for path, v in values.items()}

    def bring(self, store: ParameterStore, places: Iterable[Placed]) -> None:
        """Uploads what the host, or another device, has written since the device's copy was made."""
        for path, value, copy in places:
            if copy.version != value.version:
                array = store.array(path)  # fetches it from another device where need be
                if array.nbytes:
                    self._driver.upload(copy.address, array)
                copy.version = value.version

    def written(self, store: ParameterStore, places: Iterable[Placed]) -> None:
        """A program has written these on the device: the store's memory is stale until somebody reads it."""
        for path, _, copy in places:
            copy.version = store.moved(path, copy)

    def lost(self, places: Iterable[Placed]) -> None:
        """A program that was to write these failed: what the device holds is not known, the host's values are uploaded again."""
        for _, _, copy in places:
            copy.version = None


def _padded(n: int) -> int:
    return -(-max(n, 1) // ALIGNMENT) * ALIGNMENT
