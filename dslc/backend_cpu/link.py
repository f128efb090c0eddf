"""Relocatable ELF objects joined into one, as `ld -r` does: what the code generator gives for the parts of a program is loaded as one object.

Kept are the sections that are loaded, but for those that unwind the stack, with their relocations and one table of symbols. A name that one object
defines and another calls becomes one symbol. The format: System V ABI, "Object Files", for x86-64.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER, SECTION, SYMBOL, RELOCATION = (
    struct.Struct("<16sHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQIIQQ"),
    struct.Struct("<IBBHQQ"),
    struct.Struct("<QQq"),
)
_SYMTAB, _RELA, _NOBITS, _UNWIND = 2, 4, 8, 0x70000001
_LOADED, _UNDEFINED, _RESERVED = 2, 0, 0xFF00


@dataclass
class _Joined:
    """The object that is made: rows of its sections, their contents, symbols in two lists (local ones stand first in a table), names."""

    rows: list[list[int]] = field(default_factory=lambda: [[0] * 10])
    contents: list[bytes] = field(default_factory=lambda: [b""])
    relocations: list[tuple[int, bytes, list[tuple[bool, int]]]] = field(default_factory=list)  # (row, table, the symbols of an object)
    local: list[bytes] = field(default_factory=lambda: [bytes(SYMBOL.size)])
    shared: list[bytes] = field(default_factory=list)
    known: dict[bytes, int] = field(default_factory=dict)  # places in `shared`
    defined: set[bytes] = field(default_factory=set)
    names: bytearray = field(default_factory=lambda: bytearray(1))

    def name(self, text: bytes) -> int:
        at = len(self.names)
        self.names += text + b"\0"
        return at if text else 0

    def section(self, row: Sequence[int], name: bytes, data: bytes) -> int:
        self.rows.append([self.name(name), *row[1:]])
        self.contents.append(data)
        return len(self.rows) - 1

    def add(self, data: bytes) -> None:
        *_, count, names_at = header = HEADER.unpack_from(data)
        start = header[6]
        rows = [SECTION.unpack_from(data, start + SECTION.size * i) for i in range(count)]

        def content(row: Sequence[int]) -> bytes:
            return b"" if row[1] == _NOBITS else data[row[4] : row[4] + row[5]]

        def text(table: bytes, at: int) -> bytes:
            return table[at : table.index(b"\0", at)]

        titles, place = content(rows[names_at]), {}
        for i, row in enumerate(rows):
            title = text(titles, row[0])
            if row[2] & _LOADED and row[1] != _UNWIND and title != b".eh_frame" and row[5]:
                place[i] = self.section(row, title, content(row))
        symbols: list[tuple[bool, int]] = []  # whether it is local, where it stands
        for table in (row for row in rows if row[1] == _SYMTAB):
            names = content(rows[table[6]])
            for name_at, info, other, index, value, size in SYMBOL.iter_unpack(content(table)):
                index = place.get(index, _UNDEFINED) if index < _RESERVED else index
                symbols.append(self.symbol(text(names, name_at), info, other, index, value, size))
        for row in rows:
            if row[1] == _RELA and row[7] in place:
                self.relocations.append((place[row[7]], content(row), symbols))

    def symbol(self, name: bytes, info: int, other: int, index: int, value: int, size: int) -> tuple[bool, int]:
        if not info >> 4:
            self.local.append(SYMBOL.pack(self.name(name), info, other, index, value, size))
            return True, len(self.local) - 1
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = len(self.shared)
            self.shared.append(b"")
        if index != _UNDEFINED:
            if name in self.defined:
                raise ValueError(f"{name.decode()} is defined twice")
            self.defined.add(name)
        if index != _UNDEFINED or not self.shared[known]:
            self.shared[known] = SYMBOL.pack(self.name(name), info, other, index, value, size)
        return False, known

    def finished(self) -> bytes:
        first, tables = len(self.local), len(self.rows)
        for row, data, symbols in self.relocations:
            numbers = [at if local else first + at for local, at in symbols]
            moved = b"".join(RELOCATION.pack(o, numbers[i >> 32] << 32 | (i & 0xFFFFFFFF), a) for o, i, a in RELOCATION.iter_unpack(data))
            self.section([0, _RELA, 0, 0, 0, 0, tables + len(self.relocations), row, 8, RELOCATION.size], b".rela", moved)
        self.section([0, _SYMTAB, 0, 0, 0, 0, len(self.rows) + 1, first, 8, SYMBOL.size], b".symtab", b"".join([*self.local, *self.shared]))
        self.section([0, 3, 0, 0, 0, 0, 0, 0, 1, 0], b".strtab", b"")
        self.contents[-1] = bytes(self.names)
        out = bytearray(HEADER.size)
        for section, data in zip(self.rows[1:], self.contents[1:]):
            out += bytes(-len(out) % max(section[8], 1))
            section[4] = len(out)
            if section[1] != _NOBITS:
                section[5] = len(data)
                out += data
        out += bytes(-len(out) % 8)
        magic = b"\x7fELF\x02\x01\x01" + bytes(9)
        HEADER.pack_into(out, 0, magic, 1, 62, 1, 0, 0, len(out), 0, HEADER.size, 0, 0, SECTION.size, len(self.rows), len(self.rows) - 1)
        return bytes(out) + b"".join(SECTION.pack(*section) for section in self.rows)


def join(objects: Sequence[bytes]) -> bytes:
    """One object of several for x86-64, all as the code generator makes them. ValueError where two define one name."""
    joined = _Joined()
    for data in objects:
        joined.add(data)
    return joined.finished()
