"""What people see in a terminal."""

import pytest

from dslc.commands import show
from dslc.runtime.events import Started


def test_a_bar_ends_with_its_command(monkeypatch, capsys):
    """One that goes on would leave the terminal without a cursor."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(ZeroDivisionError), show.listening(False) as told:
        told(Started(0, 3, 8, 24, 0, None))
        assert told.progress.live.is_started
        raise ZeroDivisionError
    assert not told.progress.live.is_started
