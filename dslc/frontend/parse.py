"""From text to the syntax tree: the LALR(1) automaton of `grammar.lark` at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dslc.core.errors import DataError, Span, SyntaxError_, nearest, remember_source

from . import syntax
from .build import Builder, sequence
from .mistakes import explain
from .tables import NOTHING, Rule, Tables, tables
from .tokens import SourceText, Tokens, cut


def parse_file(path: str | Path, shown: str | None = None) -> syntax.Program:
    """The tree of a `.dsl` or `.yaml` file; `shown` is its name in messages.

    DataError where the file cannot be read, SyntaxError_ or NameError_ where it is no program.
    """
    text, file = read_text(path), shown or str(path)
    if Path(path).suffix in (".yaml", ".yml"):
        from .yaml_form import parse_yaml

        return parse_yaml(text, file)
    return parse_text(text, file)


def parse_text(text: str, file: str = "<text>") -> syntax.Program:
    """The tree of a program's text; `file` is its name in messages."""
    text = text.removeprefix("\N{BYTE ORDER MARK}").replace("\r\n", "\n").replace("\r", "\n")
    remember_source(file, text)
    source = SourceText(text, file)
    program = run(source, cut(source), "program")
    if not program.definitions:
        raise SyntaxError_("the file is empty", Span(file, 1, 1, 1, 1), help="a program begins with a layer or a model: model Name:")
    return program


def parse_expression(text: str, file: str = "<expression>", line: int = 1, column: int = 1) -> syntax.Expr:
    """The tree of one expression. It is a text of its own, called `file` in messages, or a part of a file that begins at the place given."""
    if line == column == 1:
        remember_source(file, text)
    return parse_part(SourceText(text, file, line, column), "expr", "EQUAL")


def parse_part(source: SourceText, start: str, opener: str = "") -> Any:
    """The tree of a part of a program: `start` is one of `tables.STARTS`, `opener` the kind of the keyword that its text comes after."""
    lead = start in ("statement", "minimize", "sampler")
    return run(source, cut(source, file=False, opener=opener, lead=lead), start)


def read_text(path: str | Path) -> str:
    """The text of a model file. DataError where there is none."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", help="name the model file in it") from None
    except FileNotFoundError:
        raise DataError(f"there is no file {path}{_nearest_file(path)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _nearest_file(path: Path) -> str:
    """`; did you mean 'models/gpt.dsl'?`, or what else is wrong with the path."""
    folder = path.parent
    try:
        names = [p.name for p in folder.iterdir() if p.is_file()]
    except OSError:
        return f", and no folder {folder}"
    same = [name for name in names if name.endswith((".dsl", ".yaml", ".yml", ".onnx"))]
    name = nearest(path.name, same) or nearest(path.name, names)
    return f"; did you mean '{folder / name}'?" if name else ""


def run(source: SourceText, tokens: Tokens, start: str) -> Any:
    """Runs the automaton over the tokens; the value of `start`, built by `build.Builder`. SyntaxError_ at the first token that does not fit."""
    automaton = tables()
    states, builder = automaton.states, Builder(source)
    rules = [(rule.origin, rule.size, _plan(rule), _action(builder, rule.action)) for rule in automaton.rules]
    end_state = automaton.ends[start]
    stack = [automaton.starts[start]]
    values: list[Any] = []
    begins: list[int] = []  # where each value's text starts
    last_end, risen = 0, _risen
    for index, token in enumerate(tokens):
        kind = token[0]
        while True:
            step = states[stack[-1]].get(kind)
            if kind == "$END" and stack[-1] == end_state:
                if tokens.deep:
                    _check_depth(values[-1])
                return values[-1]
            if step is None:
                raise explain(source, tokens, index, _acceptable(automaton, stack))
            if step >= 0:
                stack.append(step)
                values.append(token)
                begins.append(token[2])
                last_end = token[3]
                break
            origin, size, plan, action = rules[~step]
            if action is None:  # one symbol, whose value passes on, often up through all levels of expressions
                below, top = stack[-2], stack[-1]
                state = risen.get((below, top, kind))
                if state is None:
                    state = risen[below, top, kind] = _rise(automaton, below, states[below][origin], kind)
                stack[-1] = state
                continue
            children = values[-size:] if size else []
            if plan is not None:
                children = _children(children, plan)
            begin = begins[-size] if size else last_end
            if size:
                del stack[-size:], values[-size:], begins[-size:]
            stack.append(states[stack[-1]][origin])
            begins.append(begin)
            if action is list or action is sequence:
                values.append(children if action is list else tuple(children))
            else:
                values.append(action(source.span(begin, last_end), *children))
    raise AssertionError("the tokens have no end")


_risen: dict[tuple[int, int, str], int] = {}  # (state below, state on top, kind of the next token): the state that replaces the top


def _rise(automaton: Tables, below: int, top: int, kind: str) -> int:
    """The state after all reductions by rules of one symbol that follow each other."""
    while (step := automaton.states[top].get(kind)) is not None and step < 0 and automaton.rules[~step].action is None:
        top = automaton.states[below][automaton.rules[~step].origin]
    return top


def _plan(rule: Rule) -> tuple[int, ...] | None:
    return None if rule.children == tuple(range(rule.size)) else rule.children


def _action(builder: Builder, name: str | None) -> Any:
    if name is None:
        return None
    return {"": list, "sequence": sequence}.get(name) or getattr(builder, name)


def _children(symbols: Sequence[Any], plan: Sequence[int]) -> list[Any]:
    children: list[Any] = []
    for k in plan:
        if k < 0:
            children.extend(symbols[~k])
        else:
            children.append(None if k == NOTHING else symbols[k])
    return children


def _acceptable(automaton: Tables, stack: Sequence[int]) -> set[str]:
    """The kinds of token that the automaton can go on with (an LALR state alone lists more than that)."""
    return {kind for kind in automaton.states[stack[-1]] if kind.isupper() and _accepts(automaton, list(stack), kind)}


def _accepts(automaton: Tables, stack: list[int], kind: str) -> bool:
    while (step := automaton.states[stack[-1]].get(kind)) is not None:
        if step >= 0:
            return True
        rule = automaton.rules[~step]
        if rule.size:
            del stack[-rule.size :]
        following = automaton.states[stack[-1]].get(rule.origin)
        if following is None:
            return False
        stack.append(following)
        if kind == "$END" and following in automaton.ends.values():
            return True
    return False


def _check_depth(root: syntax.Node) -> None:
    """SyntaxError_ where an expression is deeper than its walkers may recurse."""
    todo: list[tuple[Any, syntax.Expr | None, int]] = [(root, None, 0)]  # a node, the outermost expression around it, its depth in that
    while todo:
        node, outer, depth = todo.pop()
        if outer is None and isinstance(node, syntax.Expr):
            outer = node
        depth += outer is not None
        if outer and depth > syntax.MAX_DEPTH:
            raise SyntaxError_("this expression is too long", outer.span, help="give parts of it names on lines before")
        todo += [(child, outer, depth) for child in syntax.children(node)]
