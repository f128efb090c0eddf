"""Ctrl-C and SIGTERM wait for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Pending:
    """Whether a signal came. The second one does not wait."""

    def __init__(self) -> None:
        self.came = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.came:
            raise KeyboardInterrupt
        self.came = True

    def check(self) -> None:
        """Raises KeyboardInterrupt where a signal came."""
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def interrupts_held() -> Iterator[Pending]:
    """Within, the first signal only sets a flag. Does nothing outside the main thread, and leaves handlers of a host program alone."""
    pending = Pending()
    replaced: dict[signal.Signals, object] = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == default:
                replaced[number] = signal.signal(number, pending.receive)
    try:
        yield pending
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
