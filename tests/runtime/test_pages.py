"""Memory that programs keep."""

import itertools
import os

import pytest

from dslc.runtime.pages import HUGE_PAGE, zero_bytes

LARGE = 5 * HUGE_PAGE


@pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
@pytest.mark.parametrize("alignment", [64, 4096])
def test_zeros_that_can_be_written(size, alignment):
    block = zero_bytes(size, alignment)
    assert block.nbytes == size and not block.any() and block.flags.writeable
    assert size == 0 or block.ctypes.data % alignment == 0
    block[:] = 3
    assert (zero_bytes(size, alignment) == 0).all()


def test_large_blocks_begin_far_from_each_other_in_their_huge_pages():
    places = [block.ctypes.data % HUGE_PAGE for block in [zero_bytes(LARGE) for _ in range(12)]]
    apart = [abs(a - b) for a, b in itertools.combinations(places, 2)]
    assert min(min(d, HUGE_PAGE - d) for d in apart) >= 64 << 10


def test_a_forked_process_writes_its_own():
    block = zero_bytes(LARGE)
    child = os.fork()
    if child == 0:
        block[:] = 1
        os._exit(0)
    os.waitpid(child, 0)
    assert not block.any()
