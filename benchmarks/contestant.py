"""One contestant in a process of its own: reads one JSON request a line, answers one a line.

{"prepare": workload, "weights": file.npz}  → {"first": seconds of the first call, "result": [numbers], "peak": resident bytes above the start}
{"run": seconds}                            → {"times": [seconds a call]}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .workloads import WORKLOADS, inputs


def _preparer(name: str, threads: int) -> Callable:
    """`NAME@BUDGET`: under a budget of memory, of dslc in bytes, of torch a share of what it keeps for the backward pass otherwise."""
    name, _, budget = name.partition("@")
    if name == "dslc":
        from functools import partial

        from .peers.dslc_peer import prepare as prepare_dslc

        prepare = partial(prepare_dslc, memory=budget)
    elif name == "onnxruntime":
        from .peers.onnxruntime_peer import prepare
    elif name == "dslc.onnx":
        from .peers.onnxruntime_peer import prepare_imported as prepare
    elif name == "jax":
        from .peers.jax_peer import prepare
    else:
        from functools import partial

        from .peers.torch_peer import prepare as prepare_torch

        return partial(prepare_torch, threads=threads, compiled=name == "torch.compile", kept=float(budget or 1))
    return lambda *args: prepare(*args, threads)


def _peak() -> int:
    """The most bytes that were resident since the program began (`ru_maxrss` counts the parent's too)."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def main(name: str, threads: int) -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    prepare = _preparer(name, threads)
    run: Callable[[], np.ndarray] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                workload = WORKLOADS[request["prepare"]]
                before, start = _peak(), time.perf_counter()
                with np.load(request["weights"]) as stored:
                    run = prepare(workload, dict(stored), inputs(workload))
                first = np.asarray(run(), np.float64).reshape(-1)
                reply = {"first": time.perf_counter() - start, "result": first[:: max(1, len(first) // 64)].tolist(), "peak": _peak() - before}
            else:
                assert run is not None
                times, end = [], time.perf_counter() + request["run"]
                while time.perf_counter() < end or len(times) < 3:
                    start = time.perf_counter()
                    run()
                    times.append(time.perf_counter() - start)
                reply = {"times": times}
        except NotImplementedError as error:
            reply = {"skip": str(error)}
        answer.write(json.dumps(reply) + "\n")
        answer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
