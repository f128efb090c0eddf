"""`python -m benchmarks.peers.stored_weights WEIGHTS FILE`: the arrays of an .npz file as a safetensors file. In a process of its own this takes no
memory of who reads it."""

from __future__ import annotations

import sys

import numpy as np

from dslc.runtime.tensorfile import write_safetensors

if __name__ == "__main__":
    with np.load(sys.argv[1]) as stored:
        write_safetensors(sys.argv[2], dict(stored), {})
