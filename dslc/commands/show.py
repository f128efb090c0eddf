"""How commands tell what happens: a bar and tables for people on standard error, one JSON object a line on standard output for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from ..runtime.events import Evaluated, Event, Listener, Result, Started, Stepped, Tuned, Warned


def emit(kind: str, /, **values: Any) -> None:
    """One JSON object on standard output; numbers that are not finite are null."""
    print(json.dumps(_plain({"event": kind, **values}), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """What JSON knows."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case Path():
            return str(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else repr(value)


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def numbers(values: Mapping[str, float]) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in values.items())


def tuned_line(event: Tuned) -> str:
    """What the measuring of a kernel has found."""
    found = f"{event.gain:.2f} times as fast" if event.schedule else "the cost model's schedule stays"
    refused = f", {event.refused} refused" if event.refused else ""
    lines = ", ".join(Path(x).name for x in event.lines[:3])
    at = f" for {event.lengths}" if event.lengths else ""
    return f"tuned {event.kernel}{at} ({event.share:.0%} of the time; {lines}): {found}, {event.tried} of {event.schedules} schedules tried{refused}"


class JsonListener:
    """Every event as a JSON object."""

    def __call__(self, event: Event) -> None:
        assert is_dataclass(event)
        emit(type(event).__name__.lower(), **asdict(event))


def milliseconds(seconds: float) -> str:
    """To three digits, of what is less than a second."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds * 1e3:.0f} ms"


class PlainListener:
    """About twenty lines a run, for logs."""

    def __init__(self) -> None:
        self.every = 1

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.every = max(1, event.steps // 20)
                held = f", {event.held_out_rows} held out" if event.held_out_rows else ""
                say(f"training: {event.rows} rows{held}, {event.steps} steps of {event.batch}" + (f", from step {event.step}" if event.step else ""))
            case Stepped() if event.step % self.every == 0:
                say(f"step {event.step}/{event.steps}  loss {event.loss:.4f}  {milliseconds(event.seconds)}  {numbers(event.metrics)}")
            case Evaluated():
                say(f"held out at step {event.step}: {numbers(event.values)}{'  (best)' if event.best else ''}")
            case Tuned():
                say(tuned_line(event))
            case Warned():
                say(f"note: {event.message}")


class BarListener:
    """A progress bar in a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console)
        self.task: Any = None

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.progress.start()
                self.task = self.progress.add_task("training", total=event.steps, completed=event.step)
            case Stepped():
                self.progress.update(self.task, completed=event.step, description=f"loss {event.loss:.4f}")
            case Evaluated():
                self.console.print(f"step {event.step}: held out {numbers(event.values)}{'  [bold](best)[/]' if event.best else ''}")
            case Tuned():
                self.console.print(tuned_line(event), highlight=False)
            case Warned():
                self.console.print(f"note: {event.message}")
            case Result():
                self.progress.stop()


@contextmanager
def listening(as_json: bool) -> Iterator[Listener]:
    """The listener that fits where the output goes; the terminal is as it was at the end, however that comes."""
    if as_json or not sys.stderr.isatty():
        yield JsonListener() if as_json else PlainListener()
        return
    bar = BarListener()
    try:
        yield bar
    finally:
        bar.progress.stop()
