"""Checkpoints: round trips to the bit, other models, full disks, files that are none."""

from __future__ import annotations

import errno
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.core import dtypes
from dslc.core.errors import DataError, Error, TrainingError
from dslc.runtime import checkpoint
from dslc.runtime.store import Entry, ParameterStore
from dslc.runtime.tensorfile import write_safetensors

ENTRIES = [
    Entry("net.w", "param", dtypes.FLOAT32, (2, 3)),
    Entry("net./conv/b", "param", dtypes.BFLOAT16, (3,)),
    Entry("q", "param", dtypes.INT4, (4,)),
    Entry("adam.m.net.w", "state", dtypes.FLOAT32, (2, 3)),
    Entry("count", "state", dtypes.INT64, ()),
]


def filled(entries=ENTRIES, seed=0) -> ParameterStore:
    rng = np.random.default_rng(seed)
    store = ParameterStore(entries)
    for e in entries:
        store[e.path] = rng.integers(-8, 8, e.shape).astype(e.dtype.numpy) if e.dtype.is_integer else rng.normal(size=e.shape)
    return store


def saved(path, store=None, **progress):
    store = store or filled()
    checkpoint.save(path, store, checkpoint.Progress(**progress), model="m", signature="s", average={"net.w": store["net.w"] * 2})
    return store


def test_round_trip_to_the_bit(tmp_path):
    store = saved(tmp_path / "c.safetensors", step=7, epoch=1, position=3, seed=1 << 63, best=0.1 + 0.2, extra={"vocabulary": ["é"]})
    loaded = checkpoint.load(tmp_path / "c.safetensors")
    assert (loaded.model, loaded.signature) == ("m", "s")
    assert loaded.progress == checkpoint.Progress(step=7, epoch=1, position=3, seed=1 << 63, best=0.1 + 0.2, extra={"vocabulary": ["é"]})
    other = ParameterStore(ENTRIES)
    checkpoint.restore(loaded, other)
    assert all(other[p].tobytes() == store[p].tobytes() for p in store)
    checkpoint.restore(loaded, other, average=True)
    assert np.array_equal(other["net.w"], store["net.w"] * 2)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_another_model_is_told_by_parameter_and_changes_nothing(tmp_path):
    saved(tmp_path / "c.safetensors")
    mine = [Entry("net.w", "param", dtypes.FLOAT32, (2, 4)), Entry("net.new", "param", dtypes.FLOAT32, (1,)), Entry("q", "param", dtypes.INT4, (4,))]
    store = ParameterStore([*mine, Entry("count", "state", dtypes.INT64, ())])
    with pytest.raises(TrainingError) as caught:
        checkpoint.restore(checkpoint.load(tmp_path / "c.safetensors"), store)
    assert str(caught.value).replace(str(tmp_path), "T") == (
        "training error: T/c.safetensors is the checkpoint of another model ('m')\n"
        "   = param 'net.w' is float32[2, 4], in the checkpoint float32[2, 3]\n"
        "   = missing in the checkpoint: param 'net.new', float32[1]\n"
        "   = only in the checkpoint: param 'net./conv/b', bfloat16[3]\n"
        "   = only in the checkpoint: state 'adam.m.net.w', float32[2, 3]"
    )
    assert not store["q"].any()


def test_inference_leaves_the_optimizer_out(tmp_path):
    trained = saved(tmp_path / "c.safetensors")
    store = ParameterStore([e for e in ENTRIES if not e.path.startswith("adam")])
    with pytest.raises(TrainingError, match="only in the checkpoint: state"):
        checkpoint.restore(checkpoint.load(tmp_path / "c.safetensors"), store)
    checkpoint.restore(checkpoint.load(tmp_path / "c.safetensors"), store, states=False)
    assert all(store[p].tobytes() == trained[p].tobytes() for p in store)


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, where):
    path = tmp_path / "c.safetensors"
    saved(path, step=1)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(DataError) as caught:
            saved(path, step=2)
    message = f"data error: {path} cannot be saved: No space left on device\n   = the earlier c.safetensors is intact"
    assert str(caught.value) == message
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    store = saved(tmp_path / "c.safetensors")
    assert np.array_equal(checkpoint.load(tmp_path / "c.safetensors").params["net.w"], store["net.w"])


def test_files_that_are_no_checkpoint(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"a": np.zeros(2)}, {})
    with pytest.raises(DataError, match="holds weights but is no checkpoint of dslc"):
        checkpoint.load(tmp_path / "w.safetensors")
    write_safetensors(tmp_path / "v.safetensors", {}, {"dslc": "99"})
    with pytest.raises(DataError, match="has checkpoint version 99, this dslc reads 1"):
        checkpoint.load(tmp_path / "v.safetensors")
    for damaged in ("", "[]", '{"step": "x"}', '{"best": []}', "[" * 100_000):
        write_safetensors(tmp_path / "p.safetensors", {}, {"dslc": "1", "progress": damaged})
        with pytest.raises(DataError, match="its progress record is damaged"):
            checkpoint.load(tmp_path / "p.safetensors")
    with pytest.raises(DataError, match="no such file"):
        checkpoint.load(tmp_path / "none.safetensors")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "c.safetensors"
    saved(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        checkpoint.restore(checkpoint.load(path), ParameterStore(ENTRIES))
    except Error as error:
        assert str(path) in str(error) or "'q'" in str(error)


def test_bfloat16_bits_survive(tmp_path):
    store = ParameterStore([Entry("w", "param", dtypes.BFLOAT16, (2,))])
    store["w"] = np.array([np.nan, -0.0], ml_dtypes.bfloat16)
    checkpoint.save(tmp_path / "c.safetensors", store, checkpoint.Progress(), model="", signature="")
    assert checkpoint.load(tmp_path / "c.safetensors").params["w"].tobytes() == store["w"].tobytes()
