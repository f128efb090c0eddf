"""How the built-in functions are called: which arguments each takes, by position and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dslc.core import dtypes
from dslc.core.errors import NameError_, TypeError_, did_you_mean

from . import functions as fn
from . import syntax as s


@dataclass(frozen=True)
class Signature:
    """`names`: of the arguments, by position or by name; the first `least` of them must be given (None: all). `named`: those that go by name alone.
    `several`: any number of arguments by position."""

    names: tuple[str, ...]
    least: int | None = None
    named: tuple[str, ...] = ()
    several: bool = False


SIGNATURES: dict[str, Signature] = {
    **dict.fromkeys((*fn.UNARY, *dtypes.BY_NAME, "int", "size", "rank"), Signature(("x",))),
    **dict.fromkeys((*fn.REDUCTIONS, *fn.ALONG), Signature(("x",), named=("axis",))),
    **dict.fromkeys(("min", "max"), Signature(("a", "b"), least=1, named=("axis",))),
    "logaddexp": Signature(("a", "b")),
    "leaky_relu": Signature(("x", "a"), least=1),
    "clip": Signature(("x", "lo", "hi")),
    "where": Signature(("c", "a", "b")),
    "concat": Signature((), named=("axis",), several=True),
    "split": Signature(("x", "n"), named=("axis",)),
    "topk": Signature(("x", "k")),
    **dict.fromkeys(fn.FOURIER, Signature(("re", "im"), least=1, named=("axis",))),
    "grad": Signature(("e", "p")),
    **dict.fromkeys(("uniform", "normal"), Signature(())),
    **dict.fromkeys(("randint", "beta"), Signature(("a", "b"))),
}


def by_name(
    what: str, names: Sequence[str], arguments: Sequence[Any], keywords: Mapping[str, Any], node: s.Call, *, noun: str = "argument",
    named: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """What a call gives, by name: arguments fill `names` in their order, keywords are any of `names` and `named`. TypeError_ or NameError_, at its
    place, for what is too many, unknown or given twice."""
    if len(arguments) > len(names):
        raise TypeError_(f"{what} takes {counted(len(names), noun)}, {len(arguments)} given", node.span)
    places, known = {k.name: k.span for k in node.keywords}, [*names, *named]
    for key in keywords:
        if key not in known:
            close = did_you_mean(key, known)
            takes = f"it takes {', '.join(known)}" if known and not close else None
            raise NameError_(f"{what} has no option '{key}'{close}", places[key], help=takes)
        if key in names[: len(arguments)]:
            raise TypeError_(f"{what} is given '{key}' twice", places[key])
    return {**dict(zip(names, arguments)), **keywords}


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def bound(name: str, arguments: list[Any], keywords: dict[str, Any], node: s.Call) -> tuple[list[Any], dict[str, Any]]:
    """(the arguments in their order, those that go by name alone) of a call of a built-in function; TypeError_ for what is missing too."""
    signature = SIGNATURES[name]
    names = tuple(map(str, range(len(arguments)))) if signature.several else signature.names
    least = len(signature.names) if signature.least is None else signature.least
    wanted = f"{least} or {len(names)} arguments" if least < len(names) else counted(least, "argument")
    if not least <= len(arguments) + sum(k in names for k in keywords) <= len(names):
        raise TypeError_(f"{name} takes {wanted}, {len(arguments) + len(keywords)} given", node.span)
    given = by_name(name, names, arguments, keywords, node, named=signature.named)
    missing = next((n for n in names[:least] if n not in given), None)
    if missing is not None:
        raise TypeError_(f"{name} needs '{missing}'", node.span)
    return [given[n] for n in names if n in given], {k: v for k, v in given.items() if k in signature.named}
