"""The cache stays below its limit: what was not read for longest goes, looked after once a minute."""

import os
import time

import pytest

from dslc.core import cache


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "LIMIT", 250)
    return tmp_path


def kept(place):
    return {p.name for p in place.iterdir() if p.name != cache.TRIMMED}


def test_the_oldest_goes(place, monkeypatch):
    monkeypatch.setattr(cache, "EVERY", 0)
    for n, name in enumerate("abc"):
        cache.put(name, bytes(100))
        os.utime(place / name, (n, n))
    assert cache.get("b") == bytes(100)  # read just now
    os.utime(place / "c", (5, 5))
    cache.put("d", bytes(100))
    assert kept(place) == {"b", "d"}


def test_it_is_not_looked_at_each_time(place):
    """Nor is it forgotten, where the clock was set back, or the minute is over."""
    for name in "abcd":
        cache.put(name, bytes(100))
    assert kept(place) == set("abcd")
    for now in (time.time() - 61, time.time() + 1000):
        os.utime(place / cache.TRIMMED, (now, now))
        cache.put("e", bytes(100))
        assert len(kept(place)) == 2
        for name in "abcd":
            cache.put(name, bytes(100))
