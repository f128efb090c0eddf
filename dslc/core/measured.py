"""Measured schedules on disk: one file in the cache for each device and version of the compiler, which names the schedule of every kernel that was
measured there.

A file is a line with a hash of the rest, then JSON: the device, and by `ir.bodies.kernel_hash` an Entry. It is written anew after each kernel, beside
its place and then renamed, so that whoever reads sees all of it. One that is torn, or is another device's, is told of once and counts as none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from dataclasses import asdict, dataclass

from . import cache

_HEAD = b"dslc-tuned-1 "


@dataclass(frozen=True)
class Entry:
    """What is known of a kernel: its best schedule as text ("" for the cost model's), by how much a run of it is shorter than by the cost model's
    (1: not at all), and how many schedules were tried."""

    schedule: str
    gain: float
    tried: int


def file_name(device: str) -> str:
    """The name of a device's file in the cache."""
    return cache.key("tuned", device)


def read(device: str) -> dict[str, Entry]:
    """All that was measured on a device, by kernel."""
    data = cache.get(file_name(device))
    if data is None:
        return {}
    try:
        return _decoded(data, device)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _tell(f"{cache.folder()}/{file_name(device)}", str(error))
        return {}


def write(device: str, kernel: str, entry: Entry) -> None:
    """Adds what was measured of a kernel, or replaces it; what another process has written meanwhile stays."""
    found = {**read(device), kernel: entry}
    body = json.dumps({"device": device, "kernels": {k: asdict(e) for k, e in sorted(found.items())}}, indent=1).encode()
    cache.put(file_name(device), _HEAD + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def schedules(device: str) -> dict[str, str]:
    """Of the kernels whose best schedule is not the cost model's, that schedule."""
    return {kernel: e.schedule for kernel, e in read(device).items() if e.schedule}


def _decoded(data: bytes, device: str) -> dict[str, Entry]:
    head, _, body = data.partition(b"\n")
    if head != _HEAD + hashlib.sha256(body).hexdigest().encode():
        raise ValueError("it is damaged")
    content = json.loads(body)
    if content["device"] != device:
        raise ValueError(f"it is of {content['device']}")
    found = {kernel: Entry(**entry) for kernel, entry in content["kernels"].items()}
    if not all(isinstance(e.schedule, str) and isinstance(e.gain, float) and isinstance(e.tried, int) for e in found.values()):
        raise ValueError("a value has the wrong type")
    return found


@functools.cache
def _tell(path: str, why: str) -> None:
    warnings.warn(f"the tuned schedules in {path} are left out, since {why}: the cost model chooses, and --tune measures anew", stacklevel=3)
