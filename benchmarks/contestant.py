"""One contestant in a process of its own: reads one JSON request a line, answers one a line.

{"prepare": workload, "weights": file.npz}  → {"first": seconds of the first call, "result": [numbers], "peak": resident bytes above the libraries'}
{"run": seconds}                            → {"times": [seconds a call]}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .peers import onnx_graph
from .workloads import WORKLOADS, Workload, inputs


@dataclass(frozen=True)
class Peer:
    """`prepare` (workload, weights, inputs) gives the function that is timed. `given` makes what it is given for weights, a file of its own form; in
    these `modes` alone. `libraries` imports what the module of the peer does not: memory is counted from behind it, the first call's time from
    before."""

    prepare: Callable[..., Callable[[], np.ndarray]]
    given: Callable[[Workload, str], Path] | None = None
    modes: tuple[str, ...] = ("forward", "train", "decode")
    libraries: Callable[[], None] = lambda: None


def _peer(name: str, threads: int) -> Peer:
    """`NAME@BUDGET`: under a budget of memory, of dslc in bytes, of torch a share of what it keeps for the backward pass otherwise."""
    name, _, budget = name.partition("@")
    if name.startswith("dslc"):
        from .peers import dslc_peer

        return {
            "dslc": Peer(partial(dslc_peer.prepare, threads=threads, memory=budget), dslc_peer.stored, libraries=dslc_peer.libraries),
            "dslc.onnx": Peer(partial(dslc_peer.prepare_graph, threads=threads), onnx_graph.made, ("forward",), dslc_peer.libraries),
            "dslc.package": Peer(partial(dslc_peer.prepare_package, threads=threads), dslc_peer.package, ("forward",)),
        }[name]
    if name == "onnxruntime":
        from .peers import onnxruntime_peer

        return Peer(partial(onnxruntime_peer.prepare, threads=threads), onnx_graph.made, ("forward", "decode"))
    if name == "jax":
        from .peers import jax_peer

        return Peer(partial(jax_peer.prepare, threads=threads))
    from .peers import torch_peer

    return Peer(partial(torch_peer.prepare, threads=threads, compiled=name == "torch.compile", kept=float(budget or 1)))


def _peak() -> int:
    """The most bytes that were resident since the program began (`ru_maxrss` counts the parent's too)."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def _prepared(peer: Peer, workload: Workload, weights: str) -> tuple[Callable[[], np.ndarray], dict]:
    """The function that is timed, and the reply of its first call."""
    if workload.mode not in peer.modes:
        raise NotImplementedError(f"it has no form for {workload.mode}")
    file = peer.given(workload, weights) if peer.given else None
    start = time.perf_counter()
    peer.libraries()
    before = _peak()
    if file:
        run = peer.prepare(workload, file, inputs=inputs(workload))
    else:
        with np.load(weights) as stored:
            run = peer.prepare(workload, dict(stored), inputs=inputs(workload))
    first = np.asarray(run(), np.float64).reshape(-1)
    seconds, peak = time.perf_counter() - start, _peak() - before
    return run, {"first": seconds, "result": first[:: max(1, len(first) // 64)].tolist(), "peak": peak}


def _times(run: Callable[[], np.ndarray], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def main(name: str, threads: int) -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    peer = _peer(name, threads)
    run: Callable[[], np.ndarray] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                run, reply = _prepared(peer, WORKLOADS[request["prepare"]], request["weights"])
            else:
                assert run is not None
                reply = {"times": _times(run, request["run"])}
        except NotImplementedError as error:
            reply = {"skip": str(error)}
        answer.write(json.dumps(reply) + "\n")
        answer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
