"""The parse tables of `grammar.lark`: computed by lark once, kept in the user's cache, followed by `parse.py`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from dslc.core import cache

# What may be parsed: a file, or a part of one (the scalars of the YAML form).
STARTS = ("program", "expr", "statement", "declaration", "targets", "values", "minimize", "sampler", "alias")
NOTHING = 1 << 20  # in `Rule.children`: an optional part that is absent
_GRAMMAR = Path(__file__).with_name("grammar.lark")


class Rule(NamedTuple):
    """A way to build `origin` from the last `size` symbols.

    `children`: what the action receives: k for symbol k, ~k for the elements of symbol k in its place, NOTHING for None.
    `action`: the method of `build.Builder`, "" for a plain list, None where the only symbol's value passes on.
    """

    origin: str
    size: int
    children: tuple[int, ...]
    action: str | None


class Tables(NamedTuple):
    """An LALR(1) automaton.

    `states[s]` has for each symbol the state to go to, or ~r to reduce by rule r; `starts` and `ends` the states of each of STARTS.
    """

    states: list[dict[str, int]]
    rules: list[Rule]
    starts: dict[str, int]
    ends: dict[str, int]


@functools.cache
def tables() -> Tables:
    """Those of the grammar, from the cache where it has them."""
    grammar = _GRAMMAR.read_bytes()
    name = cache.content_key("grammar", grammar, Path(__file__).read_bytes())
    kept = cache.get(name)
    if kept is not None:
        try:
            return _unpack(json.loads(kept))
        except (ValueError, KeyError, TypeError):
            pass  # damaged: compute them again
    plain = _compute(grammar.decode())
    cache.put(name, json.dumps(plain, separators=(",", ":")).encode())
    return _unpack(plain)


def _unpack(plain: dict[str, Any]) -> Tables:
    rules = [Rule(origin, size, tuple(children), action) for origin, size, children, action in plain["rules"]]
    return Tables(plain["states"], rules, plain["starts"], plain["ends"])


def _compute(grammar: str) -> dict[str, Any]:
    """The tables as plain data; lark raises GrammarError where the grammar has a conflict."""
    from lark import Lark
    from lark.parsers.lalr_analysis import Shift

    lark = Lark(grammar, parser="lalr", lexer="basic", start=list(STARTS), maybe_placeholders=True)
    numbers = {rule: k for k, rule in enumerate(lark.rules)}
    table = lark.parser.parser._parse_table
    order = {state: k for k, state in enumerate(table.states)}
    for row in table.states.values():
        for act, arg in row.values():
            if act is not Shift:
                numbers.setdefault(arg, len(numbers))  # the rules that lark adds for the starts
    states = [{str(s): order[arg] if act is Shift else ~numbers[arg] for s, (act, arg) in row.items()} for row in table.states.values()]
    return {
        "states": states,
        "rules": [_rule(rule) for rule in numbers],
        "starts": {s: order[n] for s, n in table.start_states.items()},
        "ends": {s: order[n] for s, n in table.end_states.items()},
    }


def _rule(rule: Any) -> tuple[str, int, list[int], str | None]:
    """lark's rule as a Rule: filtered terminals fall away, rules that begin with `_` dissolve, absent optional parts are NOTHING."""
    origin, symbols = str(rule.origin.name), list(rule.expansion)
    absent = list(rule.options.empty_indices) or [False] * len(symbols)
    children, k = [], 0
    for is_absent in absent:
        if is_absent:
            children.append(NOTHING)
            continue
        symbol = symbols[k]
        if not (symbol.is_term and symbol.filter_out):
            children.append(~k if not symbol.is_term and symbol.name.startswith("_") else k)
        k += 1
    if origin.startswith("_"):
        return origin, len(symbols), children, ""
    if rule.options.expand1 and not rule.alias and len(children) == 1 and children[0] >= 0:
        return origin, len(symbols), children, None
    return origin, len(symbols), children, str(rule.alias or origin)
