"""The parse tables of `grammar.lark`, followed by `parse.py`. `python -m dslc.frontend.tables` has lark compute them anew into `grammar.json`, from
which they are read: a first call need not wait for that."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

# What may be parsed: a file, or a part of one (the scalars of the YAML form).
STARTS = ("program", "expr", "statement", "declaration", "targets", "values", "minimize", "sampler", "alias")
NOTHING = 1 << 20  # in `Rule.children`: an optional part that is absent
_GRAMMAR = Path(__file__).with_name("grammar.lark")
_TABLES = _GRAMMAR.with_suffix(".json")


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
    """Those of the grammar; where it was changed since they were written, computed."""
    grammar = _GRAMMAR.read_bytes()
    plain = json.loads(_TABLES.read_bytes()) if _TABLES.exists() else {}
    return _unpack(plain if plain.get("grammar") == _fingerprint(grammar) else computed(grammar))


def _fingerprint(grammar: bytes) -> str:
    return hashlib.sha256(grammar).hexdigest()


def _unpack(plain: dict[str, Any]) -> Tables:
    rules = [Rule(origin, size, tuple(children), action) for origin, size, children, action in plain["rules"]]
    return Tables(plain["states"], rules, plain["starts"], plain["ends"])


def computed(grammar: bytes) -> dict[str, Any]:
    """The tables as plain data; lark raises GrammarError where the grammar has a conflict."""
    from lark import Lark
    from lark.parsers.lalr_analysis import Shift

    lark = Lark(grammar.decode(), parser="lalr", lexer="basic", start=list(STARTS), maybe_placeholders=True)
    numbers = {rule: k for k, rule in enumerate(lark.rules)}
    table = lark.parser.parser._parse_table
    order = {state: k for k, state in enumerate(table.states)}
    for row in table.states.values():
        for act, arg in row.values():
            if act is not Shift:
                numbers.setdefault(arg, len(numbers))  # the rules that lark adds for the starts
    states = [
        {str(s): order[arg] if act is Shift else ~numbers[arg] for s, (act, arg) in sorted(row.items(), key=str)} for row in table.states.values()
    ]
    return {
        "grammar": _fingerprint(grammar),
        "states": states,
        "rules": [list(_rule(rule)) for rule in numbers],
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


def _text(plain: dict[str, Any]) -> str:
    """As JSON, a state or a rule a line."""
    rows = {name: ",\n".join(map(json.dumps, plain[name])) for name in ("states", "rules")}
    parts = [f'"{name}": [\n{text}\n]' for name, text in rows.items()]
    parts += [f'"{name}": {json.dumps(plain[name])}' for name in ("grammar", "starts", "ends")]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    _TABLES.write_text(_text(computed(_GRAMMAR.read_bytes())), encoding="utf-8")
