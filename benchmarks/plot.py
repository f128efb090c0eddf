"""All ratios of a run of `python -m benchmarks cpu` as one picture: how many times dslc's time each peer takes, a row a workload."""

from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

MARKS = {"torch": ("o", "C0"), "torch.compile": ("s", "C1"), "onnxruntime": ("D", "C2"), "jax": ("^", "C3")}


def best_ratio(row: dict[str, Any]) -> float | None:
    """The fastest peer's time by dslc's; None where nobody else was measured."""
    ratios = [c["against_dslc"] for name, c in row["contestants"].items() if not name.startswith("dslc") and c["against_dslc"]]
    return min(ratios, default=None)


def mean_of_best(rows: list[dict[str, Any]]) -> float | None:
    """The geometric mean over the workloads of `best_ratio`."""
    logs = [log(best) for best in map(best_ratio, rows) if best]
    return exp(sum(logs) / len(logs)) if logs else None


def plot(report: dict[str, Any], path: Path) -> None:
    """Writes the picture; workloads without a measured peer are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in report["rows"] if best_ratio(row)]
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.32 * max(len(rows), 1)))
    for name, (mark, color) in MARKS.items():
        points = [(row["contestants"][name]["against_dslc"], k) for k, row in enumerate(rows) if name in row["contestants"]]
        if points:
            axes.scatter(*zip(*points), marker=mark, color=color, label=name, zorder=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(rows)), [row["workload"] for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    mean = mean_of_best(rows)
    about = f"geometric mean of the best peer: {mean:.2f}" if mean else "no peer was measured"
    axes.set(xlabel="time of the peer, as a multiple of dslc's", title=f"{report['machine']}, {report['date']}\n{about}")
    if rows:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
