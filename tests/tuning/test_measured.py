"""Measured schedules on disk: by device, by version of the compiler, torn and foreign files."""

from __future__ import annotations

import warnings

import pytest

from dslc.core import cache, measured
from dslc.core.measured import Entry, file_name, read, schedules, write

A, B = Entry('{"Schedule": {}}', 1.25, 7), Entry("", 1.0, 3)


def test_each_device_has_its_own():
    write("one", "k1", A)
    write("one", "k2", B)
    write("two", "k1", B)
    assert read("one") == {"k1": A, "k2": B} and read("two") == {"k1": B} and read("three") == {}
    assert schedules("one") == {"k1": A.schedule} and schedules("two") == {}


def test_a_kernel_is_replaced():
    write("one", "k1", B)
    write("one", "k1", A)
    assert read("one") == {"k1": A}


def test_another_version_of_the_compiler_knows_nothing(monkeypatch):
    write("one", "k1", A)
    monkeypatch.setattr(cache, "compiler_version", lambda: "another")
    assert read("one") == {}


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:30], lambda d: d[:-5], lambda d: d.replace(b"1.25", b"9.25"), lambda d: b"\xff" + d])
def test_a_torn_file_is_told_of_once(own_cache, damage):
    write("one", "k1", A)
    file = own_cache / file_name("one")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=rf"the tuned schedules in {file} are left out, since it is damaged"):
        assert read("one") == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read("one") == {}
    write("one", "k2", B)
    assert read("one") == {"k2": B}


def test_another_devices_file_counts_as_none(own_cache):
    write("one", "k1", A)
    (own_cache / file_name("two")).write_bytes((own_cache / file_name("one")).read_bytes())
    with pytest.warns(UserWarning, match="since it is of one"):
        assert read("two") == {}


@pytest.mark.parametrize("entry", [{"schedule": 3, "gain": 1.0, "tried": 1}, {"gain": 1.0}, [], {"schedule": "", "gain": "x", "tried": 1}])
def test_values_of_other_types_count_as_none(monkeypatch, entry):
    monkeypatch.setattr(measured, "asdict", lambda _: entry)
    write("one", "k1", A)
    with pytest.warns(UserWarning, match="are left out"):
        assert read("one") == {}


def test_without_a_cache_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: None)
    write("one", "k1", A)
    assert read("one") == {}
