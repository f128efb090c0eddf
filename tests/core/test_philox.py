"""The random generator: published vectors, the counter layout, and the distributions against their moments."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.core import philox

# Random123 1.14, tests/kat_vectors, philox4x32 with 10 rounds: counter, key, result
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, expected", VECTORS)
def test_known_answers(counter, key, expected):
    assert tuple(philox.philox4x32(np.array([counter], np.uint32), key)[0]) == expected


def test_counter_layout():
    seed, stream, step, microbatch, turn, index = (7 << 32) | 5, 0xDEADBEEF, 3, 2, 9, (4 << 32) | 11
    counter = np.array([[11, 4 + 9, 0xDEADBEEF, 3 * 256 + 2]], np.uint32)
    got = philox.bits(seed, stream, step, microbatch, turn, np.array([index], np.uint64))
    assert np.array_equal(got, philox.philox4x32(counter, (5, 7)))


def test_a_count_is_the_first_indices_and_blocks_do_not_show():
    many = philox.bits(1, 2, 3, 0, 0, 40_000)
    some = np.array([0, 16_383, 16_384, 39_999])
    assert np.array_equal(many[some], philox.bits(1, 2, 3, 0, 0, some))
    assert np.array_equal(many[:5], philox.bits(1, 2, 3, 0, 0, 5))


def test_step_wraps_and_differs():
    same = philox.bits(0, 1, 1 << 24, 0, 0, 4)
    assert np.array_equal(same, philox.bits(0, 1, 0, 0, 0, 4))
    assert not np.array_equal(same, philox.bits(0, 1, 1, 0, 0, 4))


def test_stream_hash_is_stable():
    assert philox.stream_hash("net.dropout.0") == philox.stream_hash("net.dropout.0")
    assert philox.stream_hash("") == 0x46D2E936  # BLAKE2s-32 of nothing


def test_uniform_is_exact_in_float32_and_flat():
    u = philox.uniform(0, 1, 0, 0, 0, 200_000)
    assert np.array_equal(u, u.astype(np.float32))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 50, (0, 1))[0]
    assert ((counts - 4000) ** 2 / 4000).sum() < 94  # chi-squared, 49 degrees: 1 in 10,000


def test_normal_moments():
    z = philox.normal(0, 1, 0, 0, 0, 200_000)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.03 and abs((z**4).mean() - 3) < 0.06
    assert np.isfinite(z).all()


def test_integers():
    words = philox.bits(0, 1, 0, 0, 0, 70_000)
    k = philox.integer_of(words, -3, 4)
    assert set(np.unique(k)) == set(range(-3, 4))
    assert abs(np.bincount(k + 3) - 10_000).max() < 500
    with pytest.raises(ValueError, match="low < high"):
        philox.integer_of(words, 3, 3)


def test_fine_uniform_has_more_than_24_bits():
    u = philox.fine_uniform(0, 1, 0, 1000)
    assert (u >= 0).all() and (u < 1).all() and (u * 2**24 != np.floor(u * 2**24)).any()


def test_permutation_is_one_and_depends_on_the_epoch():
    p = philox.permutation(1000, 5, 1, 0)
    assert np.array_equal(np.sort(p), np.arange(1000))
    assert not np.array_equal(p, philox.permutation(1000, 5, 1, 1))
