"""The device copies of a store's parameters and states: one set for each store and driver, shared by all programs there.

A copy is as new as the version of its path that it was made at. Where the host has written since, it is uploaded before the next run; where a program
wrote on the device, the store is told and fetches the values when somebody reads them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...core.executable import Port
from .device import ALIGNMENT, Driver

if TYPE_CHECKING:
    from ..store import ParameterStore


@dataclass
class _Copy:
    address: int
    version: int | None = None  # of the values that the device holds; None: not known


class Residence:
    """Where a store's values lie on one driver. It holds no reference to the store: the store holds it."""

    def __init__(self, driver: Driver):
        self.driver = driver
        self._copies: dict[str, _Copy] = {}
        self._blocks: list[int] = []
        weakref.finalize(self, _release, driver, self._blocks)

    def place(self, ports: Iterable[Port]) -> dict[str, int]:
        """Addresses of the ports by path; memory for those that had none is one allocation."""
        wanted = list(ports)
        fresh = [p for p in wanted if p.name not in self._copies]
        if fresh:
            block = self.driver.allocate(sum(_padded(p.bytes) for p in fresh))
            self._blocks.append(block)
            for port in fresh:
                self._copies[port.name] = _Copy(block)
                block += _padded(port.bytes)
        return {p.name: self._copies[p.name].address for p in wanted}

    def bring(self, store: ParameterStore, paths: Iterable[str]) -> None:
        """Uploads what the host, or another device, has written since the device's copy was made."""
        for path in paths:
            copy = self._copies[path]
            version = store.version(path)
            if copy.version != version:
                array = store.array(path)  # fetches it from another device where need be
                if array.nbytes:
                    self.driver.upload(copy.address, array)
                copy.version = version

    def written(self, store: ParameterStore, paths: Iterable[str]) -> None:
        """A program has written these on the device: the store's memory is stale until somebody reads it."""
        for path in paths:
            copy = self._copies[path]
            copy.version = store.moved(path, _Fetch(self, copy.address))

    def lost(self, paths: Iterable[str]) -> None:
        """A program that was to write these failed: what the device holds is not known, the host's values are uploaded again."""
        for path in paths:
            self._copies[path].version = None


@dataclass(frozen=True)
class _Fetch:
    """Copies a device's values to the host. It holds the residence: its memory stays while it has the newest values."""

    residence: Residence
    address: int

    def __call__(self, array: np.ndarray) -> None:
        if array.nbytes:
            self.residence.driver.download(array, self.address)


def _padded(n: int) -> int:
    return -(-max(n, 1) // ALIGNMENT) * ALIGNMENT


def _release(driver: Driver, blocks: list[int]) -> None:
    for block in blocks:
        driver.release(block)
