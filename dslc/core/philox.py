"""The keyed random generator of every target: Philox4x32-10 with a counter for each point of each draw.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); constants and test vectors of Random123.

A draw has no hidden state: the four output words of a point follow from where the point is. This layout is a contract between all targets
(numpy, native, CUDA); they must give the same integers.

    key      k0 = seed mod 2**32                    k1 = (seed >> 32) mod 2**32
    counter  c0 = index mod 2**32                   c1 = ((index >> 32) + turn) mod 2**32
             c2 = stream                            c3 = (step * 256 + microbatch) mod 2**32

`index` is the 64-bit row-major number of the point in the whole tensor of the draw (0 for a rank-0 draw). `turn` numbers the turns of the
enclosing scans, nested ones row-major with the outer scan first, and is 0 outside; it is a leading axis of stride 2**32, so no two turns
share a counter while one turn draws at most 2**32 points. `stream` is `stream_hash` of the draw's name. `microbatch` is below 256.

From the output words w0..w3 of a point:

    uniform  u = (w0 >> 8) * 2**-24                 in [0, 1), exact in float32
    integer  low + ((w0 * (high - low)) >> 32)      in [low, high), product in 64 bits, high - low at most 2**32
    normal   sqrt(-2 ln u1) * cos(2 pi u2)          u1 = ((w0 >> 8) + 1) * 2**-24 in (0, 1], u2 = (w1 >> 8) * 2**-24
    fine     ((w0 << 21) | (w1 >> 11)) * 2**-53     in [0, 1), for the host: sampling from large vocabularies
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10
_BLOCK = 1 << 14  # points a pass: the words of a block stay in the cache
_MANY = 16  # blocks from which on threads pay

MAX_MICROBATCHES = 256


def stream_hash(name: str) -> int:
    """The 32-bit number of a stream: the first four bytes, little-endian, of BLAKE2s of its name."""
    return int.from_bytes(hashlib.blake2s(name.encode(), digest_size=4).digest(), "little")


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """The plain function: `counter` uint32[n, 4] and a key of two words give uint32[n, 4]."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    k0, k1 = key
    for _ in range(_ROUNDS):  # in place: fresh memory would cost more than the arithmetic
        np.multiply(c0, _M0, out=p0)
        np.multiply(c2, _M1, out=p1)
        for word, product, key_word in ((c1, p1, k0), (c3, p0, k1)):
            word ^= np.uint64(key_word)
            word ^= np.right_shift(product, _SHIFT, out=c0)
            product &= _LOW
        c0, c1, c2, c3, p0, p1 = c1, p1, c3, p0, c0, c2
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    out = np.empty(counter.shape, np.uint32)
    for i, word in enumerate((c0, c1, c2, c3)):
        out[:, i] = word
    return out


def bits(seed: int, stream: int, step: int, microbatch: int, turn: int, points: int | np.ndarray) -> np.ndarray:
    """The output words uint32[n, 4] of n points: the first `points` of a draw, or those whose linear indices an array gives."""
    return _by_block(lambda words: words, np.uint32, (4,), seed, stream, step, microbatch, turn, points)


def _by_block(
    of: Callable[[np.ndarray], np.ndarray],
    dtype: type,
    shape: tuple[int, ...],
    seed: int,
    stream: int,
    step: int,
    microbatch: int,
    turn: int,
    points: int | np.ndarray,
) -> np.ndarray:
    """What `of` makes of the output words of each point, `shape` numbers of a type: a block at a time, of a large draw on all cores."""
    index = None if isinstance(points, (int, np.integer)) else np.asarray(points).astype(np.uint64).ravel()
    count = int(points) if index is None else len(index)  # type: ignore[call-overload]
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    out: np.ndarray = np.empty((count, *shape), dtype)

    def fill(start: int) -> None:
        stop = min(start + _BLOCK, count)
        part = np.arange(start, stop, dtype=np.uint64) if index is None else index[start:stop]
        counter = np.empty((len(part), 4), np.uint32)
        counter[:, 0] = part & _LOW
        counter[:, 1] = ((part >> _SHIFT) + np.uint64(turn)) & _LOW
        counter[:, 2] = stream & 0xFFFFFFFF
        counter[:, 3] = (step * 256 + microbatch) & 0xFFFFFFFF
        out[start:stop] = of(philox4x32(counter, key))

    starts = range(0, count, _BLOCK)
    if len(starts) < _MANY:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, starts))
    return out


def uniform_of(words: np.ndarray) -> np.ndarray:
    """Uniforms float64[n] in [0, 1) from output words uint32[n, 4]; each is exact in float32."""
    return (words[:, 0] >> np.uint32(8)) * 2.0**-24


def normal_of(words: np.ndarray) -> np.ndarray:
    """Standard normals float64[n] from output words uint32[n, 4] (Box and Muller)."""
    u1 = ((words[:, 0] >> np.uint32(8)) + 1.0) * 2.0**-24
    u2 = (words[:, 1] >> np.uint32(8)) * 2.0**-24
    return np.sqrt(-2.0 * np.log(u1)) * np.cos(2.0 * np.pi * u2)


def integer_of(words: np.ndarray, low: int, high: int) -> np.ndarray:
    """Integers int64[n] in [low, high) from output words uint32[n, 4]; ValueError unless 0 < high - low <= 2**32."""
    if not 0 < high - low <= 1 << 32:
        raise ValueError(f"an integer draw needs low < high and at most 2**32 values, not [{low}, {high})")
    return low + ((words[:, 0].astype(np.uint64) * np.uint64(high - low)) >> _SHIFT).astype(np.int64)


def uniform(seed: int, stream: int, step: int, microbatch: int, turn: int, points: int | np.ndarray) -> np.ndarray:
    """Uniforms float64[n] in [0, 1)."""
    return _by_block(uniform_of, np.float64, (), seed, stream, step, microbatch, turn, points)


def normal(seed: int, stream: int, step: int, microbatch: int, turn: int, points: int | np.ndarray) -> np.ndarray:
    """Standard normals float64[n]."""
    return _by_block(normal_of, np.float64, (), seed, stream, step, microbatch, turn, points)


def fine_uniform(seed: int, stream: int, step: int, points: int | np.ndarray) -> np.ndarray:
    """Uniforms float64[n] in [0, 1) with all 53 bits, for draws that only the host makes."""
    words = bits(seed, stream, step, 0, 0, points).astype(np.uint64)
    return ((words[:, 0] << np.uint64(21)) | (words[:, 1] >> np.uint64(11))) * 2.0**-53


def permutation(n: int, seed: int, stream: int, step: int = 0) -> np.ndarray:
    """A shuffle int64[n] of 0 .. n-1: the order of 64-bit keys (w0 high, w1 low), ties in order."""
    words = bits(seed, stream, step, 0, 0, n).astype(np.uint64)
    return np.argsort((words[:, 0] << _SHIFT) | words[:, 1], kind="stable")
