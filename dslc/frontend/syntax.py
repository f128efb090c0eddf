"""The syntax tree: what a program of the language consists of, on one page.

`parse.py` makes this tree from `.dsl` text and `yaml_form.py` from YAML; nothing here knows what a name means. Every node has a `span`,
its place in the file, which takes no part in comparisons: two trees are equal when they say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from dslc.core.errors import Span

# No tree is deeper than this, so that whoever walks it may recurse.
MAX_DEPTH = 100


@dataclass(frozen=True)
class Node:
    span: Span = field(kw_only=True, compare=False, repr=False)


def children(node: Node) -> list[Node]:
    """The nodes right below one, in the order of its fields."""
    values = (getattr(node, f.name) for f in fields(node))
    return [child for v in values for child in (v if isinstance(v, tuple) else (v,)) if isinstance(child, Node)]


def names_in(node: Node) -> list[str]:
    """The names that expressions and axes of a node use, each once, in their order; "..." for a run of axes."""
    own = [node.name] if isinstance(node, (Name, Index)) else ["..."] if isinstance(node, Rest) else []
    return list(dict.fromkeys([*own, *(name for child in children(node) for name in names_in(child))]))


# --- Expressions -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expr(Node):
    """Something with a value. `(e)` leaves no node, `(a, b)` and `[a, b]` are both a List."""


@dataclass(frozen=True)
class Name(Expr):
    """`x`"""

    name: str


@dataclass(frozen=True)
class Number(Expr):
    """`3`, `2_000`: an int; `0.5`, `1e-3`: a float. `text` is what the file says."""

    value: int | float
    text: str


@dataclass(frozen=True)
class String(Expr):
    r"""`"words"`, with `\n`, `\t`, `\"` and `\\` already replaced."""

    value: str


@dataclass(frozen=True)
class Bool(Expr):
    """`true`, `false`"""

    value: bool


@dataclass(frozen=True)
class List(Expr):
    """`[a, b]`, `(a, b)`, `(a,)`, `[]`"""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Unary(Expr):
    """`-a`, `+a`, `not a`"""

    op: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Expr):
    """`a + b`; op is one of `+ - * / // % **`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Compare(Expr):
    """`0 <= i < n`: two ops and three operands; always one more operand than ops. An op is one of `< <= > >= == !=`."""

    ops: tuple[str, ...]
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Logical(Expr):
    """`a and b and c`; op is `and` or `or`, with two or more operands."""

    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Conditional(Expr):
    """`then if condition else otherwise`"""

    then: Expr
    condition: Expr
    otherwise: Expr


@dataclass(frozen=True)
class Keyword(Node):
    """`name=value` in a call or in the brackets of a read."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Call(Expr):
    """`f(a, b, k=c)`. A reduction `sum[j](e)` is a Call whose function is the Read `sum[j]`."""

    function: Expr
    arguments: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True)
class Read(Expr):
    """`x[b, 2*i, ..., outside=0]`: the elements of base at these places."""

    base: Expr
    entries: tuple[Expr | Rest, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True)
class Attribute(Expr):
    """`net.params`; the name may be digits: `net.block.0`."""

    base: Expr
    name: str


@dataclass(frozen=True)
class Use(Expr):
    """`use f(options)`: an instance that is not called yet."""

    call: Call


@dataclass(frozen=True)
class Import(Expr):
    """`import "x.onnx"`, `import("x.onnx", train="*.weight")`"""

    path: str
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True)
class Quantity(Expr):
    """`2 GiB`, `30 min`: a value of a train or generate line."""

    number: Number
    unit: str


# --- Brackets that declare axes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index(Node):
    """`i`, `i < bound`. A bare name is an index on a left side, a dimension in a port, and a size in `param`, `state`, `input`, `carry`."""

    name: str
    bound: Expr | None


@dataclass(frozen=True)
class Size(Node):
    """`4`, `2 * c`: an axis of a known size. Never on the left side of an equation."""

    value: Expr


@dataclass(frozen=True)
class Rest(Node):
    """`...`: a run of axes. At most one in a list of axes."""


Axis = Index | Size | Rest


@dataclass(frozen=True)
class Target(Node):
    """`y`, `y[b, i < P]`: what is defined. `axes` is None without brackets; with them it holds Index and Rest only, no name twice."""

    name: str
    axes: tuple[Axis, ...] | None


@dataclass(frozen=True)
class Declaration(Node):
    """`w[d, 4]: float32` in `param`, `state`, `input`."""

    name: str
    axes: tuple[Axis, ...] | None
    type: str | None


@dataclass(frozen=True)
class Item(Node):
    """`y[b] = e` or `e` alone (target is None) after `return`, `emit`, `output`, `loss`, `metric`."""

    target: Target | None
    value: Expr


# --- Statements --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement(Node):
    """A line of a layer or a model."""


@dataclass(frozen=True)
class Binding(Node):
    """`name = value` of a `let`."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Dim(Node):
    """`a=32`; `b<=128` (bounded: any size up to the value)."""

    name: str
    value: Expr
    bounded: bool


@dataclass(frozen=True)
class Dims(Statement):
    """`dims a=32, b<=128`"""

    entries: tuple[Dim, ...]


@dataclass(frozen=True)
class Let(Statement):
    """`let c = a // 4, d = [1, 2]`; also on the file's level and in `train`."""

    bindings: tuple[Binding, ...]


@dataclass(frozen=True)
class Param(Statement):
    """`param w[d, k], v[d] ~ start if condition` (drawn) or `param w[i < d] = start`."""

    declarations: tuple[Declaration, ...]
    start: Expr | None
    drawn: bool
    condition: Expr | None


@dataclass(frozen=True)
class State(Statement):
    """`state m[c] ~ start if condition` (drawn), `state count: int32 = start`."""

    declarations: tuple[Declaration, ...]
    start: Expr | None
    drawn: bool
    condition: Expr | None


@dataclass(frozen=True)
class Input(Statement):
    """`input x[b, t]: int32, m[b]: bool`"""

    declarations: tuple[Declaration, ...]


@dataclass(frozen=True)
class Output(Statement):
    """`output a, p = softmax(a)`"""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class Loss(Statement):
    """`loss e`, `loss name = e`"""

    item: Item


@dataclass(frozen=True)
class Metric(Statement):
    """`metric name = e`"""

    item: Item


@dataclass(frozen=True)
class Assign(Statement):
    """`y = e`, `y[b, i < P] = e`, `a, b = f(x)`"""

    targets: tuple[Target, ...]
    value: Expr


@dataclass(frozen=True)
class Update(Statement):
    """`m <- e`, `m[c] <- e`, `net.params <- tree` (then the target is an Attribute)."""

    target: Target | Attribute
    value: Expr


@dataclass(frozen=True)
class Emit(Statement):
    """`emit y[b, t, u] = e`; every item has a target."""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class Return(Statement):
    """`return a, y[b] = e`"""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class Path(Node):
    """`net.block.0.w` (everything below it), `all`, or a string, which is a glob over whole paths: `"*.bias"`; `net.*.w` is one too."""

    text: str
    glob: bool


@dataclass(frozen=True)
class Wrap(Statement):
    """`wrap pattern with lora(rank=4)`"""

    pattern: tuple[Path, ...]
    layer: Call


@dataclass(frozen=True)
class Branch(Node):
    """`if condition:` or `elif condition:` and its block."""

    condition: Expr
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class If(Statement):
    """One or more branches; `otherwise` is the block of `else:`, empty without it."""

    branches: tuple[Branch, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True)
class Repeat(Statement):
    """`repeat count as index:`"""

    count: Expr
    index: str | None
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Carry(Node):
    """`h[b, u]: float32 = start` of a scan."""

    name: str
    axes: tuple[Axis, ...] | None
    type: str | None
    start: Expr


@dataclass(frozen=True)
class Scan(Statement):
    """`scan index < bound carry h = 0, c = 0:`"""

    index: str
    bound: Expr | None
    carries: tuple[Carry, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class With(Statement):
    """`with precision(float32), frozen:`"""

    settings: tuple[Expr, ...]
    body: tuple[Statement, ...]


# --- Files -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formal(Node):
    """A formal of a layer: a port where `axes` is not None (`x[b, t]: int32`), else an option (`heads=4`)."""

    name: str
    axes: tuple[Axis, ...] | None
    type: str | None
    default: Expr | None


@dataclass(frozen=True)
class Layer(Node):
    """`layer name(formals): body`"""

    name: str
    formals: tuple[Formal, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Model(Node):
    """`model name: body`"""

    name: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Graph(Statement):
    """The body of a model that is an ONNX graph (`onnx.graph.Graph`). Patterns of names: `train`, the initializers that are parameters (none: those
    that are weights); `freeze`, the parameters that stay as they are."""

    graph: Any
    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting(Node):
    """`key value, value` of a train or generate block."""

    key: str
    values: tuple[Expr, ...]


@dataclass(frozen=True)
class Minimize(Node):
    """`minimize losses over pattern with optimizer`"""

    losses: Expr
    pattern: tuple[Path, ...]
    optimizer: Call


@dataclass(frozen=True)
class Train(Node):
    """`train name:` and its lines, in order."""

    name: str | None
    lines: tuple[Setting | Minimize | Let, ...]


@dataclass(frozen=True)
class Sampler(Node):
    """`over axis from output sample(temperature=0.8)`; `output` may be a path, `y.logits`."""

    axis: str
    output: str
    method: Call


@dataclass(frozen=True)
class Generate(Node):
    """`generate:` and its lines, in order."""

    lines: tuple[Sampler | Setting, ...]


@dataclass(frozen=True)
class Alias(Node):
    """`name`, `name as alias`"""

    name: str
    alias: str | None


@dataclass(frozen=True)
class FromImport(Node):
    """`from "file.dsl" import a, b as c`"""

    path: str
    names: tuple[Alias, ...]


Definition = Layer | Model | Train | Generate | FromImport | Let | Assign


@dataclass(frozen=True)
class Program(Node):
    """A file."""

    file: str = field(compare=False)
    definitions: tuple[Definition, ...]
