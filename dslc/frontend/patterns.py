"""Patterns over parameter paths: `net.block` stands for all below it, a string is a glob over whole paths, `all` is everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from dslc.core.errors import NameError_, nearest

from . import syntax as s


def matching(pattern: Sequence[s.Path], paths: Iterable[str]) -> list[str]:
    """The paths that one of the patterns means, in their order. Raises NameError_ where one of them means none."""
    known = list(paths)
    chosen: set[str] = set()
    for one in pattern:
        found = [path for path in known if _means(one, path)]
        if not found:
            shown = f'"{one.text}"' if one.glob else one.text
            raise NameError_(f"pattern {shown} matches no parameter{nearest_path(one.text, known)}", one.span)
        chosen.update(found)
    return [path for path in known if path in chosen]


def _means(one: s.Path, path: str) -> bool:
    if one.glob:
        return fnmatchcase(path, one.text)
    return one.text == "all" or path == one.text or path.startswith(one.text + ".")


def nearest_path(text: str, paths: Sequence[str]) -> str:
    """The path, or beginning of a path, that the text is most likely a slip of."""
    beginnings = {".".join(path.split(".")[:k]) for path in paths for k in range(1, path.count(".") + 2)}
    found = nearest(text.removesuffix(".*"), sorted(beginnings))
    return f'; nearest: "{found}"' if found else ""
