"""The cache on disk: bytes under a key, private to the user, safe with several processes at once.

Files lie in `$DSLC_CACHE` or `~/.cache/dslc`, in a folder of mode 0700. A file is written beside its place and renamed into it, so a reader sees all
of it or nothing. Where the folder cannot be used, nothing is cached and nothing fails. Like a shared library, what lies here is trusted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import time
from pathlib import Path

LIMIT = 2 << 30  # bytes; past it the files that were not read for longest go
TRIMMED, EVERY = ".trimmed", 60.0  # the file whose time says when they last went, and seconds until it is looked again: thousands take time


def folder() -> Path | None:
    """The cache's folder, made if need be; None where it cannot be used."""
    given = os.environ.get("DSLC_CACHE")
    path = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dslc"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = path.stat().st_uid == os.getuid()
    except OSError:
        return None
    return path if owned and os.access(path, os.W_OK) else None


@functools.cache
def compiler_version() -> str:
    """Changes with every change of dslc's own files: their names, sizes and times, hashed."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for directory, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n != "__pycache__")
        for name in sorted(files):
            if not name.endswith(".pyc"):
                status = os.stat(os.path.join(directory, name))
                digest.update(f"{directory}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def key(*parts: str | bytes) -> str:
    """A file name from everything that the value depends on; the compiler's own version is always part of it."""
    return content_key(compiler_version(), *parts)


def content_key(*parts: str | bytes) -> str:
    """A file name for what the parts alone determine, whichever version of dslc asks."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def get(name: str) -> bytes | None:
    """The bytes under a key, or None."""
    place = folder()
    if place is None:
        return None
    try:
        data = (place / name).read_bytes()
        os.utime(place / name)
    except OSError:
        return None
    return data


def put(name: str, data: bytes) -> None:
    """Keeps bytes under a key."""
    place = folder()
    if place is None:
        return
    with contextlib.suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=place, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, place / name)
        except OSError:
            os.unlink(temporary)
            raise
        _trim(place)


def _trim(place: Path) -> None:
    """Removes what was not read for longest while the whole is over the limit."""
    mark = place / TRIMMED
    if mark.exists() and 0 <= time.time() - mark.stat().st_mtime < EVERY:
        return
    mark.touch()
    files = [(entry.stat(), entry.path) for entry in os.scandir(place) if entry.is_file() and entry.name != TRIMMED]
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda item: item[0].st_mtime):
        if total <= LIMIT:
            return
        os.unlink(path)
        total -= status.st_size
