"""Mistakes in the words of a command, in the form of all other errors.

The parser under typer is the package click up to typer 0.28, and a copy of it inside typer since; so its errors are told by what they offer
(`format_message`, `exit_code`, `ctx`), not by their class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..core.errors import Error, nearest

# what the parser adds to its messages and `usage_error` says itself
_HINTS = re.compile(r"\s*(\(Possible options: .*\)|\(Did you mean .*\)|Did you mean .*\?)\s*$", re.DOTALL)


class UsageError(Error):
    """A command or an option that is not there, one that lacks its value, a value that is not of its type."""

    label = "usage error"


def is_usage(error: BaseException) -> bool:
    """Whether the parser raised it."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def usage_error(error: Any) -> UsageError:
    """The parser's error with the nearest known command or option."""
    message = _HINTS.sub("", error.format_message()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    path = getattr(context, "command_path", None) or "dslc"
    commands, options = sorted(getattr(command, "commands", {})), _options(command)
    mistyped = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and mistyped:
        return UsageError(f"no such option '{mistyped}'{_meant(mistyped, options)}", help=_more(path))
    unknown = re.search(r"No such command ['\"](.*)['\"]$", message)
    if unknown:
        return UsageError(f"no such command '{unknown[1]}'{_meant(unknown[1], commands)}", help=f"the commands are {', '.join(commands)}")
    return UsageError(message[:1].lower() + message[1:], help=_more(path))


def _meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean '--steps'?`, or nothing. The dashes of a long option count for nothing: of `--x`, most is dashes."""
    names = {name.lstrip("-") or name: name for name in known}
    said = word.lstrip("-").lower()
    near = next((name for name in names if len(said) > 2 and name.startswith(said)), None) or nearest(said, names)
    return f"; did you mean '{names[near]}'?" if near else ""


def _options(command: Any) -> list[str]:
    found = [name for p in getattr(command, "params", []) for name in (*p.opts, *p.secondary_opts) if name.startswith("-")]
    return [*found, "--help"]


def _more(path: str) -> str:
    return f"{path} --help shows what it takes"
