"""Sums of products of narrow integers: a 32-bit word holds neighbouring terms, one instruction multiplies them and adds them up."""

from __future__ import annotations

from typing import Any

from dslc.ir.mlir import ir, vector

from .emit import instruction
from .machine import Machine
from .types import const, i32, lanes_of, vec

Value = Any  # an ir.Value


def terms_of_word(machine: Machine) -> int:
    """Four bytes with VNNI, else two 16-bit integers."""
    return 4 if machine.vnni else 2


def joined(terms: Value, lanes: int) -> Value:
    """A vector of narrow integers as `lanes` words; one word is a scalar."""
    words = vector.bitcast(ir.VectorType.get([lanes], i32()), terms)
    return words if lanes > 1 else vector.extract(words, [], [0])


def ones(machine: Machine, lanes: int) -> Value:
    """Words of terms that are all 1."""
    return const(0x01010101 if machine.vnni else 0x00010001, vec(lanes, i32()))


def dot(machine: Machine, total: Value, a: Value, b: Value) -> Value:
    """total + the sum of the products of a's and b's terms, in each word, modulo 2^32: u8 times s8, or s16 times s16 (as in vpmaddwd, exact but where
    all four are -2^15, which no widened byte is)."""
    lanes = lanes_of(total)
    bits = 32 * lanes
    if machine.vnni:
        a, b = (vector.bitcast(vec(4 * lanes, ir.IntegerType.get_signless(8)), v) for v in (a, b))
        return instruction(f"llvm.x86.avx512.vpdpbusd.{bits}", total, a, b)
    a, b = (vector.bitcast(vec(2 * lanes, ir.IntegerType.get_signless(16)), v) for v in (a, b))
    name = "llvm.x86.avx512.pmaddw.d.512" if bits == 512 else "llvm.x86.avx2.pmadd.wd"
    return ir.Operation.create("arith.addi", [total.type], [total, instruction(name, a, b, of=total)]).result
