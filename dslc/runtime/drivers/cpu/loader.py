"""Maps relocatable ELF objects into memory, write xor execute: the machine code of CPU programs, without a linker.

Only what the code generator emits is understood, and every offset is checked against the object's size: a damaged object is a DataError, one that
asks for another machine, relocation or symbol a TargetError. Like a shared library, an object is trusted to run once it is loaded.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ....core.errors import DataError, TargetError

_MATH = """acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh erf erfc exp exp2 expm1 floor fma fmax fmin fmod hypot
    lgamma log log10 log1p log2 nearbyint pow rint round roundeven sin sinh sqrt tan tanh tgamma trunc"""
_MATH_SYMBOLS = [name + kind for name in _MATH.split() for kind in ("", "f")]
SYMBOLS = frozenset(["memcpy", "memmove", "memset", "memcmp", "sched_yield", "syscall", *_MATH_SYMBOLS])

_PAGE = mmap.PAGESIZE
_MOST = 1 << 30  # bytes of a mapped object
_ALLOCATED, _EXECUTABLE, _WRITABLE = 2, 4, 1  # section flags
_SYMTAB, _RELA, _NOBITS, _REL, _UNWIND = 2, 4, 8, 9, 0x70000001  # section types
_ABSOLUTE = 0xFFF1
_THUNK = 16  # bytes: jmp *[rip], then the address


@dataclass(frozen=True)
class _Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


@lru_cache(maxsize=1)
def _libraries() -> list[Any]:
    found = [ctypes.CDLL(None, use_errno=True)]
    for name in ("libm.so.6", "libc.so.6"):
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue
    return found


def _external(name: str) -> int:
    """The address of a function of the C library that objects may call."""
    if name not in SYMBOLS:
        raise TargetError(f"the compiled program calls '{name}', which programs may not call", help="compile it again with this version")
    for library in _libraries():
        try:
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    raise TargetError(f"the C library of this system has no '{name}'")


def _unmap(base: int, size: int) -> None:
    libc = _libraries()[0]
    libc.munmap(ctypes.c_void_p(base), ctypes.c_size_t(size))


def _damaged(what: str) -> DataError:
    return DataError(f"the object code of the program is damaged: {what}", help="compile it again")


class LoadedObject:
    """An object in executable memory, unmapped when it is collected. `symbols`: the addresses of its global functions."""

    def __init__(self, data: bytes):
        self._data = data
        sections = self._read_sections()
        self._place, regions, size = _lay_out(sections, len(data))
        self._thunk_base, thunks = size, sum(s.size // 24 for s in sections if s.type == _RELA)
        regions.append((size, _round(_THUNK * thunks), _EXECUTABLE))
        self.size = size + _round(_THUNK * thunks) or _PAGE
        self.base = self._map()
        weakref.finalize(self, _unmap, self.base, self.size).atexit = False
        self._thunks: dict[int, int] = {}
        for i, at in self._place.items():
            if sections[i].type != _NOBITS:
                ctypes.memmove(self.base + at, data[sections[i].offset : sections[i].offset + sections[i].size], sections[i].size)
        self.symbols: dict[str, int] = {}
        values = self._read_symbols(sections)
        for section in sections:
            self._relocate(section, sections, values)
        self._protect(regions)
        del self._data

    def function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """A ctypes function of the object; keep the object as long as it is called. DataError where there is none."""
        if name not in self.symbols:
            raise DataError(f"the compiled program has no function '{name}'", help="compile it again with this version")
        return ctypes.CFUNCTYPE(result, *arguments)(self.symbols[name])

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        if at < 0 or at + struct.calcsize(form) > len(self._data):
            raise _damaged("it is cut off")
        return struct.unpack_from(form, self._data, at)

    def _text(self, table: _Section, at: int) -> str:
        start, end = table.offset + at, table.offset + table.size
        stop = self._data.find(b"\0", start, end)
        if not table.offset <= start < end or stop < 0:
            raise _damaged("a name lies outside its table")
        return self._data[start:stop].decode("utf-8", "replace")

    def _read_sections(self) -> list[_Section]:
        if self._data[:4] != b"\x7fELF":
            raise _damaged("it is not an ELF object")
        bits, order = self._unpack("<BB", 4)
        kind, machine = self._unpack("<HH", 16)
        if (bits, order, kind, machine) != (2, 1, 1, 62):
            raise TargetError("the compiled program is not an object for x86-64", help="compile it again on this machine")
        (start,) = self._unpack("<Q", 40)
        entry, count, names_at = self._unpack("<HHH", 58)
        if entry != 64 or not count or names_at >= count:
            raise _damaged("its table of sections does not hold together")
        raw = [self._unpack("<IIQQQQIIQQ", start + 64 * i) for i in range(count)]
        for _, type_, _, _, offset, size, *_ in raw:
            if type_ != _NOBITS and offset + size > len(self._data):
                raise _damaged("a section reaches over its end")
        names = _Section("", raw[names_at][1], 0, raw[names_at][4], raw[names_at][5], 0, 0, 1, 0)
        return [_Section(self._text(names, r[0]) if r[1] else "", r[1], r[2], r[4], r[5], r[6], r[7], r[8], r[9]) for r in raw]

    def _map(self) -> int:
        libc = _libraries()[0]
        libc.mmap.restype = ctypes.c_void_p
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        read_write = mmap.PROT_READ | mmap.PROT_WRITE
        base = libc.mmap(None, ctypes.c_size_t(self.size), read_write, flags, -1, ctypes.c_long(0))
        if base in (None, ctypes.c_void_p(-1).value):
            raise TargetError("the system gives no memory for the program's code")
        return base

    def _protect(self, regions: list[tuple[int, int, int]]) -> None:
        libc = _libraries()[0]
        for at, size, flags in regions:
            mode = mmap.PROT_READ | (mmap.PROT_EXEC if flags & _EXECUTABLE else mmap.PROT_WRITE if flags & _WRITABLE else 0)
            if size and libc.mprotect(ctypes.c_void_p(self.base + at), ctypes.c_size_t(size), mode):
                raise TargetError("the system does not allow generated code to run (mprotect failed)")

    def _read_symbols(self, sections: list[_Section]) -> list[int | None]:
        """The address of each symbol; None for one that cannot be used. Undefined ones come from the C library."""
        tables = [s for s in sections if s.type == _SYMTAB]
        if len(tables) != 1 or tables[0].entry_size != 24 or tables[0].link >= len(sections):
            raise _damaged("it has no table of symbols")
        values: list[int | None] = []
        for at in range(tables[0].offset, tables[0].offset + tables[0].size // 24 * 24, 24):
            name_at, info, _, index, value, _ = self._unpack("<IBBHQQ", at)
            name = self._text(sections[tables[0].link], name_at) if name_at else ""
            if index in self._place:
                if value > sections[index].size:
                    raise _damaged(f"the symbol '{name}' lies outside its section")
                value += self.base + self._place[index]
                if name and info >> 4:  # not local
                    self.symbols[name] = value
                values.append(value)
            elif index == 0:
                values.append(_external(name) if name else 0)
            else:
                values.append(value if index == _ABSOLUTE else None)
        return values

    def _relocate(self, section: _Section, sections: list[_Section], values: list[int | None]) -> None:
        if section.type not in (_RELA, _REL) or section.info not in self._place:
            return  # of no section, or of one that is not loaded: debugging and unwinding
        target = sections[section.info]
        if section.type == _REL or section.entry_size != 24 or target.type == _NOBITS:
            raise _damaged("a table of relocations does not hold together")
        for at in range(section.offset, section.offset + section.size // 24 * 24, 24):
            offset, info, addend = self._unpack("<QQq", at)
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            if kind not in _RELOCATIONS:
                raise TargetError(f"the compiled program needs relocation {kind}, which is not known", help="compile it again with this version")
            if symbol >= len(values) or values[symbol] is None:
                raise _damaged("a relocation names no symbol")
            width, relative = _RELOCATIONS[kind]
            if offset + width > target.size:
                raise _damaged("a relocation lies outside its section")
            place = self.base + self._place[section.info] + offset
            value = values[symbol] + addend - (place if relative else 0)  # type: ignore[operator]
            if width == 4 and not -(1 << 31) <= value < 1 << 31:
                value = self._thunk(values[symbol]) + addend - place  # type: ignore[arg-type]
            ctypes.memmove(place, (value & ((1 << 8 * width) - 1)).to_bytes(width, "little"), width)

    def _thunk(self, target: int) -> int:
        """The address of a jump, near the code, to a function that is too far for 32 bits."""
        at = self._thunks.setdefault(target, self.base + self._thunk_base + _THUNK * len(self._thunks))
        ctypes.memmove(at, b"\xff\x25\x00\x00\x00\x00" + target.to_bytes(8, "little"), 14)
        return at


# R_X86_64_64, PC32, PLT32, PC64: bytes, and whether the place is subtracted
_RELOCATIONS = {1: (8, False), 2: (4, True), 4: (4, True), 24: (8, True)}


def _round(n: int) -> int:
    return -(-n // _PAGE) * _PAGE


def _lay_out(sections: list[_Section], file_bytes: int) -> tuple[dict[int, int], list[tuple[int, int, int]], int]:
    """Offsets of the sections that are loaded, the regions (offset, bytes, flags) of equal protection, and the whole size."""
    place: dict[int, int] = {}
    regions = []
    size = 0
    for protection in (_EXECUTABLE, 0, _WRITABLE):
        start = size
        for i, s in enumerate(sections):
            if not s.flags & _ALLOCATED or s.flags & (_EXECUTABLE | _WRITABLE) != protection or s.type == _UNWIND or s.name == ".eh_frame":
                continue
            align = max(s.align, 1)
            if align & (align - 1) or align > _PAGE or s.size > _MOST:
                raise _damaged("a section has an impossible size")
            size = -(-size // align) * align
            place[i] = size
            size += s.size
            if size > _MOST:
                raise _damaged("a section has an impossible size")
        size = _round(size)
        regions.append((start, size - start, protection))
    if any(s.flags & _ALLOCATED and s.flags & _EXECUTABLE and s.flags & _WRITABLE for s in sections):
        raise TargetError("the compiled program has code that can be written, which is refused")
    return place, regions, size
