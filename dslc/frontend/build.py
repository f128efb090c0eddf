"""Makes the syntax tree, a method for each rule of `grammar.lark`. Children arrive as tokens and finished nodes, in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lark import Token, Transformer

from dslc.core.errors import Span, SyntaxError_

from . import syntax as s
from .unparse import unparse

_LAYOUT = ("_NL", "_INDENT", "_DEDENT")
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\"": '"', r"\\": "\\"}


@dataclass(frozen=True)
class Part:
    """An optional piece of a rule on its way up, or a list of pieces."""

    kind: str
    value: Any
    span: Span


def span_of_token(token: Token, file: str, origin: tuple[int, int] = (0, 0)) -> Span:
    lines, columns = origin
    line, column = token.line or 1, token.column or 1
    end_line, end_column = token.end_line or line, token.end_column or column + len(token)
    return Span(file, line + lines, column + (columns if line == 1 else 0), end_line + lines, end_column + (columns if end_line == 1 else 0))


class Builder(Transformer):
    """lark calls a method with the children of the rule that it is named after."""

    origin: tuple[int, int] = (0, 0)  # lines and columns before the text, where a part of a file is parsed

    def __init__(self, file: Callable[[], str]):
        super().__init__()
        self.file = file

    def _span(self, children: Sequence[Any]) -> Span:
        ends = [c for c in children if not (isinstance(c, Token) and c.type in _LAYOUT)]
        first, last = (self._one(c) for c in (ends[0], ends[-1]))
        return first.to(last)

    def _one(self, child: Any) -> Span:
        return span_of_token(child, self.file(), self.origin) if isinstance(child, Token) else child.span

    def _token(self, token: Token) -> Span:
        return span_of_token(token, self.file(), self.origin)

    # --- files and definitions

    def start(self, c: list) -> tuple:
        out: list = []
        for child in c:
            if isinstance(child, Part):
                out += child.value
            elif not isinstance(child, Token):
                out.append(child)
        return tuple(out)

    def file_line(self, c: list) -> Part:
        return Part("lines", _nodes(c), self._span(c))

    def from_import(self, c: list) -> s.FromImport:
        return s.FromImport(span=self._span(c), path=self._text(c[1]), names=tuple(_nodes(c)))

    def alias(self, c: list) -> s.Alias:
        names = _names(c)
        return s.Alias(span=self._span(c), name=names[0], alias=names[1] if len(names) > 1 else None)

    def layer(self, c: list) -> s.Layer:
        parts = _parts(c)
        return s.Layer(span=self._span(c[:2]), name=str(c[1]), formals=tuple(parts.get("formals", ())), body=parts["suite"])

    def formals(self, c: list) -> Part:
        return Part("formals", _nodes(c), self._span(c))

    def formal(self, c: list) -> s.Formal:
        p = _parts(c)
        axes = self._declared(p["axes"]) if "axes" in p else None
        return s.Formal(span=self._span(c), name=str(c[0]), axes=axes, type=p.get("type"), default=p.get("default"))

    def model(self, c: list) -> s.Model:
        return s.Model(span=self._span(c[:2]), name=str(c[1]), body=_parts(c)["suite"])

    def suite(self, c: list) -> Part:
        body: list = []
        for child in c:
            if isinstance(child, Part):
                body += child.value
            elif not isinstance(child, Token):
                body.append(child)
        return Part("suite", tuple(body), self._span(c))

    def line(self, c: list) -> Part:
        return Part("line", _nodes(c), self._span(c))

    def typed(self, c: list) -> Part:
        return Part("type", str(c[1]), self._span(c))

    def default(self, c: list) -> Part:
        return Part("default", c[1], self._span(c))

    def only_if(self, c: list) -> Part:
        return Part("only_if", c[1], self._span(c))

    def bound(self, c: list) -> Part:
        return Part("bound", c[1], self._span(c))

    def drawn(self, c: list) -> Part:
        return Part("drawn", c[1], self._span(c))

    def valued(self, c: list) -> Part:
        return Part("valued", c[1], self._span(c))

    def declarations(self, c: list) -> Part:
        return Part("declarations", tuple(_nodes(c)), self._span(c))

    # --- statements

    def dims(self, c: list) -> s.Dims:
        return s.Dims(span=self._span(c), entries=tuple(_nodes(c)))

    def dim(self, c: list) -> s.Dim:
        if c[1].type == "COMPARE" and c[1] != "<=":
            raise SyntaxError_(f"a bounded dimension is written {c[0]}<=size", self._token(c[1]))
        return s.Dim(span=self._span(c), name=str(c[0]), value=c[2], bounded=c[1].type == "COMPARE")

    def let(self, c: list) -> s.Let:
        return s.Let(span=self._span(c), bindings=tuple(_nodes(c)))

    train_let = let

    def train_let(self, c: list) -> s.Let:  # noqa: F811
        return c[0]

    def binding(self, c: list) -> s.Binding:
        return s.Binding(span=self._span(c), name=str(c[0]), value=c[2])

    def _kept(self, kind: type, c: list) -> Any:
        p = _parts(c)
        drawn = "drawn" in p
        start = p.get("drawn", p.get("valued"))
        return kind(span=self._span(c), declarations=p["declarations"], start=start, drawn=drawn, condition=p.get("only_if"))

    def param(self, c: list) -> s.Param:
        return self._kept(s.Param, c)

    def state(self, c: list) -> s.State:
        return self._kept(s.State, c)

    def input(self, c: list) -> s.Input:
        return s.Input(span=self._span(c), declarations=_parts(c)["declarations"])

    def declaration(self, c: list) -> s.Declaration:
        p = _parts(c)
        axes = self._declared(p["axes"]) if "axes" in p else None
        return s.Declaration(span=self._span(c), name=str(c[0]), axes=axes, type=p.get("type"))

    def output(self, c: list) -> s.Output:
        return s.Output(span=self._span(c), items=tuple(_nodes(c)))

    def loss(self, c: list) -> s.Loss:
        return s.Loss(span=self._span(c), item=_nodes(c)[0])

    def metric(self, c: list) -> s.Metric:
        return s.Metric(span=self._span(c), item=_nodes(c)[0])

    def return_(self, c: list) -> s.Return:
        return s.Return(span=self._span(c), items=tuple(_nodes(c)))

    def emit(self, c: list) -> s.Emit:
        items = _nodes(c)
        for item in items:
            if item.target is None:
                raise SyntaxError_("an emitted value needs a name", item.span, help=f"emit y[b, t] = {unparse(item.value)}")
        return s.Emit(span=self._span(c), items=tuple(items))

    def item(self, c: list) -> s.Item:
        if len(c) == 1:
            return s.Item(span=c[0].span, target=None, value=c[0])
        return s.Item(span=self._span(c), target=self._target(c[0]), value=c[2])

    def assign(self, c: list) -> s.Assign:
        *targets, value = _nodes(c)
        return s.Assign(span=self._span(c), targets=tuple(self._target(t) for t in targets), value=value)

    def update(self, c: list) -> s.Update:
        target = c[0] if isinstance(c[0], s.Attribute) else self._target(c[0])
        return s.Update(span=self._span(c), target=target, value=c[2])

    def alone(self, c: list) -> s.Statement:
        raise SyntaxError_("an expression alone does nothing", c[0].span, help=f"give it a name: y = {unparse(c[0])}")

    def wrap(self, c: list) -> s.Wrap:
        return s.Wrap(span=self._span(c), pattern=_parts(c)["pattern"], layer=self._call(c[-1], "wrap needs a layer with its options"))

    def if_(self, c: list) -> s.If:
        suites = [x for x in c if isinstance(x, Part) and x.kind == "suite"]
        first = s.Branch(span=c[1].span, condition=c[1], body=suites[0].value)
        others = [x for x in c if isinstance(x, s.Branch)]
        return s.If(span=self._span(c[:2]), branches=(first, *others), otherwise=_parts(c).get("else", ()))

    def elif_(self, c: list) -> s.Branch:
        return s.Branch(span=c[1].span, condition=c[1], body=_parts(c)["suite"])

    def else_(self, c: list) -> Part:
        return Part("else", _parts(c)["suite"], self._span(c))

    def repeat(self, c: list) -> s.Repeat:
        names = [x for x in c if isinstance(x, Token) and x.type == "NAME"]
        return s.Repeat(span=self._span(c[:2]), count=c[1], index=str(names[0]) if names else None, body=_parts(c)["suite"])

    def scan(self, c: list) -> s.Scan:
        p = _parts(c)
        carries = tuple(x for x in c if isinstance(x, s.Carry))
        return s.Scan(span=self._span(c[:2]), index=str(c[1]), bound=p.get("bound"), carries=carries, body=p["suite"])

    def carry(self, c: list) -> s.Carry:
        p = _parts(c)
        axes = self._declared(p["axes"]) if "axes" in p else None
        return s.Carry(span=self._span(c), name=str(c[0]), axes=axes, type=p.get("type"), start=p["default"])

    def with_(self, c: list) -> s.With:
        return s.With(span=self._span(c[:2]), settings=tuple(x for x in _nodes(c) if isinstance(x, s.Expr)), body=_parts(c)["suite"])

    # --- train, generate

    def train(self, c: list) -> s.Train:
        name = str(c[1]) if isinstance(c[1], Token) and c[1].type == "NAME" else None
        return s.Train(span=self._span(c[:1]), name=name, lines=tuple(_nodes(c)))

    def setting(self, c: list) -> s.Setting:
        return s.Setting(span=self._span(c), key=str(c[0]), values=tuple(_nodes(c[1:])))

    def quantity(self, c: list) -> s.Quantity:
        return s.Quantity(span=self._span(c), number=self.number(c[:1]), unit=str(c[1]))

    def minimize(self, c: list) -> s.Minimize:
        optimizer = self._call(c[5], "minimize needs an optimizer with its options")
        return s.Minimize(span=self._span(c), losses=c[1], pattern=_parts(c)["pattern"], optimizer=optimizer)

    def pattern(self, c: list) -> Part:
        return Part("pattern", tuple(_nodes(c)), self._span(c))

    def path(self, c: list) -> s.Path:
        if c[0].type == "STRING":
            return s.Path(span=self._span(c), text=self._text(c[0]), glob=True)
        text = "".join(map(str, c))
        return s.Path(span=self._span(c), text=text, glob="*" in text)

    def generate(self, c: list) -> s.Generate:
        return s.Generate(span=self._span(c[:1]), lines=tuple(_nodes(c)))

    def sampler(self, c: list) -> s.Sampler:
        method = next(k for k, x in enumerate(c) if isinstance(x, Token) and x.type == "_LPAR") - 1
        arguments, keywords = _parts(c).get("args", ((), ()))
        name = s.Name(span=self._token(c[method]), name=str(c[method]))
        call = s.Call(span=self._span(c[method:]), function=name, arguments=arguments, keywords=keywords)
        return s.Sampler(span=self._span(c), axis=str(c[1]), output=c[3].text, method=call)

    # --- expressions

    def conditional(self, c: list) -> s.Conditional:
        return s.Conditional(span=self._span(c), then=c[0], condition=c[2], otherwise=c[4])

    def use(self, c: list) -> s.Use:
        return s.Use(span=self._span(c), call=self._call(c[1], "use makes an instance of a layer: use f(options)"))

    def import_(self, c: list) -> s.Import:
        path = next(x for x in c if isinstance(x, Token) and x.type == "STRING")
        return s.Import(span=self._span(c), path=self._text(path), keywords=tuple(_nodes(c)))

    def logical(self, c: list) -> s.Logical:
        return s.Logical(span=self._span(c), op=str(c[1]), operands=tuple(_nodes(c)))

    def unary(self, c: list) -> s.Unary:
        return s.Unary(span=self._span(c), op=str(c[0]), operand=c[1])

    def compare(self, c: list) -> s.Compare:
        return s.Compare(span=self._span(c), ops=tuple(map(str, c[1::2])), operands=tuple(c[0::2]))

    def binary(self, c: list) -> s.Binary:
        return s.Binary(span=self._span(c), op=str(c[1]), left=c[0], right=c[2])

    def call(self, c: list) -> s.Call:
        arguments, keywords = _parts(c).get("args", ((), ()))
        return s.Call(span=self._span(c), function=c[0], arguments=arguments, keywords=keywords)

    def args(self, c: list) -> Part:
        given = _nodes(c)
        plain = tuple(x for x in given if not isinstance(x, s.Keyword))
        named = tuple(x for x in given if isinstance(x, s.Keyword))
        for before, after in zip(given, given[1:]):
            if isinstance(before, s.Keyword) and not isinstance(after, s.Keyword):
                raise SyntaxError_("an argument by position stands behind one by name", after.span, help="name it, or move it to the front")
        return Part("args", (plain, named), self._span(c))

    def keyword(self, c: list) -> s.Keyword:
        return s.Keyword(span=self._span(c), name=str(c[0]), value=c[2])

    def read(self, c: list) -> s.Read:
        entries = tuple(x for x in c[1].value if not isinstance(x, s.Keyword))
        keywords = tuple(x for x in c[1].value if isinstance(x, s.Keyword))
        return s.Read(span=self._span(c), base=c[0], entries=entries, keywords=keywords)

    def axes(self, c: list) -> Part:
        return Part("axes", tuple(_nodes(c)), self._span(c))

    def rest(self, c: list) -> s.Rest:
        return s.Rest(span=self._span(c))

    def attribute(self, c: list) -> s.Attribute:
        return s.Attribute(span=self._span(c), base=c[0], name=str(c[2]))

    def name(self, c: list) -> s.Name:
        return s.Name(span=self._span(c), name=str(c[0]))

    def number(self, c: list) -> s.Number:
        text = str(c[0])
        digits = text.replace("_", "")
        whole = re.fullmatch(r"\d+", digits) is not None
        return s.Number(span=self._span(c), value=int(digits) if whole else float(digits), text=text)

    def string(self, c: list) -> s.String:
        return s.String(span=self._span(c), value=self._text(c[0]))

    def true(self, c: list) -> s.Bool:
        return s.Bool(span=self._span(c), value=True)

    def false(self, c: list) -> s.Bool:
        return s.Bool(span=self._span(c), value=False)

    def group(self, c: list) -> s.Expr:
        return c[1]

    def list(self, c: list) -> s.List:
        return s.List(span=self._span(c), items=tuple(_nodes(c)))

    # --- left sides and declared axes

    def _text(self, token: Token) -> str:
        return re.sub(r'\\[nt"\\]', lambda m: _ESCAPES[m.group()], str(token)[1:-1])

    def _call(self, node: Any, message: str) -> s.Call:
        if not isinstance(node, s.Call):
            raise SyntaxError_(message, node.span, help=f"{unparse(node)}(...)" if isinstance(node, s.Name) else None)
        return node

    def _target(self, node: Any) -> s.Target:
        """A left side: a name, or a name with index names."""
        if isinstance(node, s.Name):
            return s.Target(span=node.span, name=node.name, axes=None)
        if not (isinstance(node, s.Read) and isinstance(node.base, s.Name)):
            raise SyntaxError_("only a name, or a name with axes, can be defined", node.span)
        axes = []
        for entry in (*node.entries, *node.keywords):
            axis = _index(entry)
            if axis is None:
                raise SyntaxError_("the left side holds index names only", entry.span, help=_solved(node, entry))
            axes.append(axis)
        names = [a.name for a in axes if isinstance(a, s.Index)]
        if len(set(names)) < len(names):
            raise SyntaxError_("an index stands twice on the left side", node.span)
        if sum(isinstance(a, s.Rest) for a in axes) > 1:
            raise SyntaxError_("'...' stands twice on the left side", node.span)
        return s.Target(span=node.span, name=node.base.name, axes=tuple(axes))

    def _declared(self, entries: Sequence[Any]) -> tuple[s.Axis, ...]:
        """The axes of a declaration: names, `index < size`, sizes, one `...`."""
        axes: list[s.Axis] = []
        for entry in entries:
            if isinstance(entry, s.Keyword):
                raise SyntaxError_("an axis is a name or a size", entry.span)
            axes.append(_index(entry) or s.Size(span=entry.span, value=entry))
        if sum(isinstance(a, s.Rest) for a in axes) > 1:
            raise SyntaxError_("'...' stands twice", entries[-1].span)
        return tuple(axes)


def _index(entry: Any) -> s.Index | s.Rest | None:
    """An entry as an index: a name, `i < bound`, or `...`."""
    if isinstance(entry, s.Rest):
        return entry
    if isinstance(entry, s.Name):
        return s.Index(span=entry.span, name=entry.name, bound=None)
    if isinstance(entry, s.Compare) and entry.ops == ("<",) and isinstance(entry.operands[0], s.Name):
        return s.Index(span=entry.span, name=entry.operands[0].name, bound=entry.operands[1])
    return None


def _solved(node: s.Read, entry: Any) -> str:
    """The help for `y[2*i] = x[i]`: the equation solved for the index, where that is simple."""
    match entry:
        case (
            s.Binary(op="*", left=s.Number(value=int() as n), right=s.Name(name=i))
            | s.Binary(op="*", left=s.Name(name=i), right=s.Number(value=int() as n))
        ):
            return f"solve for the index: {unparse(node.base)}[{i}] = where({i} % {n} == 0, x[{i} // {n}], 0)"
    return "solve for the index, so that the left side names it alone"


def _nodes(children: Sequence[Any]) -> list:
    return [c for c in children if not isinstance(c, (Token, Part))]


def _names(children: Sequence[Any]) -> list[str]:
    return [str(c) for c in children if isinstance(c, Token) and c.type == "NAME"]


def _parts(children: Sequence[Any]) -> dict[str, Any]:
    return {c.kind: c.value for c in children if isinstance(c, Part)}
