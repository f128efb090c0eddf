"""The YAML form of a program: the same syntax tree from a mapping whose scalars are texts of the language.

Every span points into the YAML file: a scalar is parsed by the grammar of the language, with the place of each of its characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import yaml

from dslc.core.errors import NameError_, Span, SyntaxError_, did_you_mean, remember_source

from . import syntax as s
from .build import target
from .parse import parse_part
from .tokens import OPENERS, RESERVED, SourceText
from .yaml_text import compose, scalar_text

_KEYS = ("import", "model", "dims", "let", "inputs", "layers", "output", "loss", "metrics", "train", "generate")
_NAME = re.compile(r"[^\W\d]\w*")
_STAGE = re.compile(r"train\s+([^\W\d]\w*)")
_BLOCKS = {"repeat": ("as", "do"), "scan": ("carry", "do"), "if": ("do", "else"), "with": ("do",)}
_CHAIN = "_"  # the name of a result that has none

Pair = tuple[yaml.ScalarNode, yaml.Node]


def parse_yaml(text: str, file: str = "<text>") -> s.Program:
    """The tree of a program in the YAML form. SyntaxError_ or NameError_ (an unknown key) where it is none."""
    text = text.removeprefix("\N{BYTE ORDER MARK}").replace("\r\n", "\n").replace("\r", "\n")
    remember_source(file, text)
    whole = SourceText(text, file)
    root = compose(whole)
    if root is None or _empty(root):
        raise SyntaxError_("the file is empty", Span(file, 1, 1, 1, 1), help="a program has a model: model: Name")
    return _Reader(whole).program(root)


class _Reader:
    def __init__(self, whole: SourceText):
        self.whole = whole

    # --- YAML nodes

    def span(self, node: yaml.Node, last: yaml.Node | None = None) -> Span:
        """The text of a node, or from the first to the last of two."""
        start, end = node.start_mark.index, (last or node).end_mark.index
        return self.whole.span(start, max(start + len(self.whole.text[start:end].rstrip()), start + 1))

    def fail(self, node: yaml.Node, message: str, help: str | None = None) -> NoReturn:
        raise SyntaxError_(message, self.span(node), help=help)

    def part(self, node: yaml.Node, start: str, opener: str = "", blank: int = 0) -> Any:
        """A scalar as a part of a program; its first `blank` characters are left out."""
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, "a text of the language must stand here")
        if not node.value.strip():
            self.fail(node, "a value is missing here")
        try:
            return parse_part(scalar_text(self.whole, node, blank), start, opener)
        except SyntaxError_ as error:
            following = self.whole.text[node.end_mark.index :].lstrip()[:1]
            if node.style is None and following == "," and error.help is None:
                error.help = "in YAML a comma inside { } and [ ] ends a value: put quotes around a text that holds one"
            raise

    def pairs(self, node: yaml.Node, what: str) -> dict[str, Pair]:
        """A mapping by the texts of its keys."""
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{what} is a mapping: KEY: VALUE lines")
        found: dict[str, Pair] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.fail(key, "a key is a text")
            if key.value in found:
                raise SyntaxError_(f"the key '{key.value}' stands twice", [self.span(key), self.span(found[key.value][0])])
            found[key.value] = (key, value)
        return found

    def known(self, pairs: dict[str, Pair], known: Iterable[str], where: str) -> None:
        known = list(known)
        for text, (key, _) in pairs.items():
            if text not in known:
                message = f"unknown key '{text}' {where}{did_you_mean(text, known)}"
                raise NameError_(message, self.span(key), help=f"the keys here are {', '.join(known)}")

    def name(self, node: yaml.Node, what: str) -> str:
        if isinstance(node, yaml.ScalarNode) and _NAME.fullmatch(node.value) and node.value not in RESERVED:
            return str(node.value)
        self.fail(node, f"{what} is a name")

    # --- Expressions

    def expr(self, node: yaml.Node) -> s.Expr:
        """A text, a list, or a call `{name: {options}}`."""
        if isinstance(node, yaml.SequenceNode):
            return s.List(tuple(self.expr(item) for item in node.value), span=self.span(node))
        if isinstance(node, yaml.MappingNode):
            pairs = list(self.pairs(node, "a value").values())
            if len(pairs) != 1:
                self.fail(node, "a mapping as a value is one call: {NAME: {options}}")
            return self.call(*pairs[0])
        return self.part(node, "expr", "EQUAL")

    def call(self, key: yaml.ScalarNode, options: yaml.Node, first: tuple[s.Expr, ...] = ()) -> s.Call:
        """`key: options` as a call: options are a mapping by name, a list by position, or nothing; `first` come before them."""
        function = self.part(key, "expr", "EQUAL")
        if not isinstance(function, (s.Name, s.Attribute)):
            self.fail(key, "options follow the name of a layer or a function")
        span = self.span(key, options)
        if _empty(options):
            return s.Call(function, first, (), span=span)
        if isinstance(options, yaml.SequenceNode):
            return s.Call(function, first + tuple(self.expr(o) for o in options.value), (), span=span)
        pairs = self.pairs(options, f"the value of '{key.value}'").values()
        keywords = tuple(s.Keyword(self.name(k, "an option"), self.expr(v), span=self.span(k, v)) for k, v in pairs)
        return s.Call(function, first, keywords, span=span)

    def target(self, key: yaml.ScalarNode, value: s.Expr) -> s.Target:
        left = self.part(key, "targets")
        if len(left) != 1:
            self.fail(key, "one name stands here")
        return target(left[0], value)

    # --- The document

    def program(self, root: yaml.Node) -> s.Program:
        top = self.pairs(root, "a program")
        stages = [key for key in top if _STAGE.fullmatch(key)]
        self.known({key: pair for key, pair in top.items() if key not in stages}, _KEYS, "of a program")
        definitions: list[Any] = []
        if "import" in top:
            definitions += [self.from_import(*pair) for pair in self.pairs(top["import"][1], "import").values()]
        if "model" not in top:
            raise SyntaxError_("'model' is missing", self.span(root.value[0][0]), help="model: NAME")
        definitions.append(self.model(top))
        definitions += [self.train(*top[key]) for key in top if key == "train" or key in stages]
        if "generate" in top:
            definitions.append(self.generate(*top["generate"]))
        return s.Program(self.whole.file, tuple(definitions), span=self.span(root))

    def from_import(self, key: yaml.ScalarNode, names: yaml.Node) -> s.FromImport:
        items = names.value if isinstance(names, yaml.SequenceNode) else [names]
        return s.FromImport(key.value, tuple(self.part(item, "alias", "_FROM") for item in items), span=self.span(key, names))

    def model(self, top: dict[str, Pair]) -> s.Model:
        key, value = top["model"]
        name, body, first = self.name(value, "a model"), [], None
        sections: dict[str, Callable[[yaml.ScalarNode, yaml.Node], list[s.Statement]]] = {
            "dims": self.dims, "let": self.let, "inputs": self.inputs, "layers": lambda _, node: self.layers(node, first),
            "output": self.output, "loss": self.items, "metrics": self.items,
        }  # fmt: skip
        for section, read in sections.items():
            if section in top and not _empty(top[section][1]):
                body += read(*top[section])
            if section == "inputs":
                first = next((x.declarations[0].name for x in body if isinstance(x, s.Input)), None)
        if not body:
            self.fail(value, f"the model {name} is empty")
        return s.Model(name, tuple(body), span=self.span(key, value))

    def dims(self, key: yaml.ScalarNode, node: yaml.Node) -> list[s.Statement]:
        """`{batch: 32, time: <=1024}`, also `time<=1024:` without a value, a list of texts, or one text."""
        if not isinstance(node, yaml.MappingNode):
            return self.texts(node, "_DIMS")
        entries: list[s.Dim] = []
        for name, value in self.pairs(node, "dims").values():
            if _empty(value):
                entries += self.part(name, "statement", "_DIMS").entries
                continue
            bounded = isinstance(value, yaml.ScalarNode) and value.value.startswith("<=")
            size = self.part(value, "expr", "EQUAL", blank=2) if bounded else self.expr(value)
            entries.append(s.Dim(self.name(name, "a dimension"), size, bounded, span=self.span(name, value)))
        return [s.Dims(tuple(entries), span=self.span(key, node))]

    def let(self, key: yaml.ScalarNode, node: yaml.Node) -> list[s.Statement]:
        if not isinstance(node, yaml.MappingNode):
            return self.texts(node, "_LET")
        pairs = self.pairs(node, "let").values()
        bindings = tuple(s.Binding(self.name(k, "a let"), self.expr(v), span=self.span(k, v)) for k, v in pairs)
        return [s.Let(bindings, span=self.span(key, node))]

    def inputs(self, key: yaml.ScalarNode, node: yaml.Node) -> list[s.Statement]:
        """`x[batch, 3]: int32` lines, the type may be absent; also as a list."""
        if isinstance(node, yaml.SequenceNode):
            return [statement for item in node.value for statement in self.inputs(key, item)]
        if isinstance(node, yaml.ScalarNode):
            return self.texts(node, "_INPUT")
        found: list[s.Statement] = []
        for name, value in self.pairs(node, "inputs").values():
            declared = self.part(name, "declaration")
            dtype = declared.type if _empty(value) else self.name(value, f"the type of {declared.name}")
            span = self.span(name, value)
            found.append(s.Input((s.Declaration(declared.name, declared.axes, dtype, span=span),), span=span))
        return found

    def texts(self, node: yaml.Node, lead: str) -> list[s.Statement]:
        """A text, or each of a list, as the rest of a statement that begins with the keyword."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return [self.part(item, "statement", lead) for item in nodes]

    def output(self, key: yaml.ScalarNode, node: yaml.Node) -> list[s.Statement]:
        if isinstance(node, yaml.MappingNode):
            items = [item for pair in self.pairs(node, "output").values() for item in [self.item(*pair)]]
        else:
            items = [item for statement in self.texts(node, "_OUTPUT") for item in statement.items]  # type: ignore[attr-defined]
        return [s.Output(tuple(items), span=self.span(key, node))]

    def items(self, key: yaml.ScalarNode, node: yaml.Node) -> list[s.Statement]:
        """Losses or metrics: `{name: expression}`, a text, or a list of either."""
        make = s.Loss if key.value == "loss" else s.Metric
        if isinstance(node, yaml.SequenceNode):
            return [statement for item in node.value for statement in self.items(key, item)]
        if isinstance(node, yaml.ScalarNode):
            return self.texts(node, f"_{make.__name__.upper()}")
        return [make(self.item(*pair), span=self.span(*pair)) for pair in self.pairs(node, key.value).values()]

    def item(self, key: yaml.ScalarNode, node: yaml.Node) -> s.Item:
        value = self.expr(node)
        return s.Item(self.target(key, value), value, span=self.span(key, node))

    # --- Layers

    def layers(self, node: yaml.Node, before: str | None) -> list[s.Statement]:
        if not isinstance(node, yaml.SequenceNode):
            self.fail(node, "layers is a list", "begin each entry with '- '")
        return self.entries(node, before)[0]

    def entries(self, node: yaml.Node, before: str | None) -> tuple[list[s.Statement], str | None]:
        """The statements of a list of entries, and the name of the last result; `before` is the name that the first call takes."""
        statements: list[s.Statement] = []
        for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            made, before = self.entry(entry, before)
            statements += made
        return statements, before

    def entry(self, entry: yaml.Node, before: str | None) -> tuple[list[s.Statement], str | None]:
        if isinstance(entry, yaml.ScalarNode):
            if _is_call(entry):
                return self.chained(entry, _nothing(entry), _CHAIN, before)
            statement = self.part(entry, "statement")
            defined = isinstance(statement, s.Assign) and len(statement.targets) == 1
            return [statement], statement.targets[0].name if defined else before
        pairs = self.pairs(entry, "an entry of layers")
        block = next((word for word in _BLOCKS if word in pairs), None)
        if block:
            return self.block(block, pairs, before)
        heads = [key for key in pairs if key != "as"]
        if len(heads) != 1:
            self.fail(entry, f"an entry has one key, this one {', '.join(heads) or 'none'}", "begin each entry with '- '")
        key, value = pairs[heads[0]]
        self.check_statement(key, value)
        if isinstance(value, yaml.ScalarNode) and not _empty(value):
            if "as" in pairs:
                self.fail(pairs["as"][0], f"'as' names the result of a layer, and this entry defines {key.value}")
            right = self.part(value, "expr", "EQUAL")
            targets = tuple(target(left, right) for left in self.part(key, "targets"))
            return [s.Assign(targets, right, span=self.span(key, value))], targets[0].name if len(targets) == 1 else before
        return self.chained(key, value, self.name(pairs["as"][1], "'as'") if "as" in pairs else _CHAIN, before)

    def check_statement(self, key: yaml.ScalarNode, value: yaml.Node) -> None:
        """A statement whose text holds `: ` has become a mapping."""
        words = key.value.split()
        if len(words) > 1 and words[0] in {*OPENERS, *RESERVED}:
            text = self.whole.text[key.start_mark.index : value.end_mark.index].strip()
            self.fail(key, "YAML takes the text before ': ' for a key", f"put quotes around the statement: '{text}'")

    def chained(self, key: yaml.ScalarNode, options: yaml.Node, name: str, before: str | None) -> tuple[list[s.Statement], str]:
        """A call of a layer on the result before it."""
        span = self.span(key, options)
        if before is None:
            self.fail(key, f"{key.value} has nothing before it to take", "name its argument: y: layer(x)")
        call = self.call(key, options, (s.Name(before, span=self.span(key)),))
        return [s.Assign((s.Target(name, None, span=span),), call, span=span)], name

    def block(self, word: str, pairs: dict[str, Pair], before: str | None) -> tuple[list[s.Statement], str | None]:
        """`repeat`, `scan`, `if` or `with`. Calls inside take and leave their results under one name, so that each turn goes on from the last."""
        key, head = pairs[word]
        self.known(pairs, (word, *_BLOCKS[word]), f"of '{word}'")
        if "do" not in pairs or _empty(pairs["do"][1]):
            self.fail(key, f"'{word}' has no 'do'", "do: a list of entries")
        parts = [pairs[k][1] for k in ("do", "else") if k in pairs and not _empty(pairs[k][1])]
        through = any(_has_calls(part) for part in parts)
        statements = [self.alias(_CHAIN, before, key)] if through and before not in (_CHAIN, None) else []
        bodies, lasts = [], []
        for part in parts:
            body, last = self.entries(part, _CHAIN if through and before else before)
            if through and last not in (_CHAIN, None):
                body.append(self.alias(_CHAIN, last, part))
            bodies.append(tuple(body))
            lasts.append(last)
        if word == "if" and len(parts) == 1:
            lasts.append(before)
        after = _CHAIN if through else lasts[0] if len(set(lasts)) == 1 else None
        return [*statements, self.headed(word, key, head, pairs, bodies)], after

    def alias(self, name: str, value: str | None, node: yaml.Node) -> s.Assign:
        span = self.span(node)
        return s.Assign((s.Target(name, None, span=span),), s.Name(value or "", span=span), span=span)

    def headed(self, word: str, key: yaml.ScalarNode, head: yaml.Node, pairs: dict[str, Pair], bodies: list[tuple[s.Statement, ...]]) -> s.Statement:
        span, body = self.span(key, head), bodies[0]
        if word == "repeat":
            return s.Repeat(self.expr(head), self.name(pairs["as"][1], "'as'") if "as" in pairs else None, body, span=span)
        if word == "with":
            settings = tuple(self.expr(h) for h in head.value) if isinstance(head, yaml.SequenceNode) else self.part(head, "targets")
            return s.With(settings, body, span=span)
        if word == "if":
            branches: tuple[s.Branch, ...] = (s.Branch(self.expr(head), body, span=span),)
            otherwise = bodies[1] if len(bodies) > 1 else ()
            if len(otherwise) == 1 and isinstance(otherwise[0], s.If):  # an if alone in else is elif
                branches, otherwise = branches + otherwise[0].branches, otherwise[0].otherwise
            return s.If(branches, otherwise, span=span)
        index = self.part(head, "expr", "EQUAL")
        bound = None
        if isinstance(index, s.Compare) and index.ops == ("<",):
            index, bound = index.operands
        if not isinstance(index, s.Name):
            self.fail(head, "a scan needs an index", "scan: t, or scan: t < n")
        carries = tuple(self.carry(*pair) for pair in self.pairs(pairs["carry"][1], "carry").values()) if "carry" in pairs else ()
        return s.Scan(index.name, bound, carries, body, span=span)

    def carry(self, key: yaml.ScalarNode, node: yaml.Node) -> s.Carry:
        declared = self.part(key, "declaration")
        return s.Carry(declared.name, declared.axes, declared.type, self.expr(node), span=self.span(key, node))

    # --- Train and generate

    def train(self, key: yaml.ScalarNode, node: yaml.Node) -> s.Train:
        lines: list[Any] = []
        for name, value in self.pairs(node, "train").values():
            if name.value == "let":
                lines += self.let(name, value)
            elif name.value == "minimize":
                lines += self.minimize(value)
            else:
                lines.append(self.setting(name, value))
        stage = _STAGE.fullmatch(key.value)
        return s.Train(stage[1] if stage else None, tuple(lines), span=self.span(key))

    def minimize(self, node: yaml.Node) -> list[s.Minimize]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return [self.part(item, "minimize", "_MINIMIZE") for item in nodes]

    def setting(self, key: yaml.ScalarNode, node: yaml.Node) -> s.Setting:
        name = self.name(key, "a key")
        if name in OPENERS:
            self.fail(key, f"'{name}' has no meaning here")
        values = self.part(node, "values", "EQUAL") if isinstance(node, yaml.ScalarNode) else (self.expr(node),)
        return s.Setting(name, values, span=self.span(key, node))

    def generate(self, key: yaml.ScalarNode, node: yaml.Node) -> s.Generate:
        """`{over: AXIS, from: OUTPUT, sample: {options}}`, or `over: AXIS from OUTPUT sample(options)`; and settings."""
        pairs = self.pairs(node, "generate")
        lines: list[Any] = []
        if "from" in pairs:
            lines.append(self.sampler(key, pairs))
        elif "over" in pairs:
            lines.append(self.part(pairs.pop("over")[1], "sampler", "_OVER"))
        return s.Generate((*lines, *(self.setting(*pair) for pair in pairs.values())), span=self.span(key))

    def sampler(self, key: yaml.ScalarNode, pairs: dict[str, Pair]) -> s.Sampler:
        """Takes `over`, `from` and the sampler, which is the key whose value is a mapping or empty, out of the pairs."""
        method = next((k for k, (_, v) in pairs.items() if k not in ("over", "from") and (isinstance(v, yaml.MappingNode) or _empty(v))), None)
        if "over" not in pairs or method is None:
            missing = "'over'" if "over" not in pairs else "the sampler"
            self.fail(key, f"{missing} is missing", "{over: AXIS, from: OUTPUT, sample: {temperature: 0.8}}")
        (over, axis), (_, output), choice = pairs.pop("over"), pairs.pop("from"), pairs.pop(method)
        path = self.part(output, "expr", "EQUAL")
        if not isinstance(path, (s.Name, s.Attribute)):
            self.fail(output, "the name of an output stands here")
        return s.Sampler(self.name(axis, "an axis"), output.value.strip(), self.call(*choice), span=self.span(over, axis))


def _empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


def _nothing(node: yaml.Node) -> yaml.ScalarNode:
    return yaml.ScalarNode("", "", node.end_mark, node.end_mark)


def _is_call(entry: yaml.ScalarNode) -> bool:
    """A layer's name alone."""
    return _NAME.fullmatch(entry.value) is not None and entry.value not in RESERVED


def _has_calls(node: yaml.Node) -> bool:
    """Whether some entry of a block is a call on the entry before it."""
    for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if isinstance(entry, yaml.ScalarNode):
            if _is_call(entry):
                return True
        elif isinstance(entry, yaml.MappingNode):
            values = {key.value: value for key, value in entry.value if isinstance(key, yaml.ScalarNode)}
            if any(word in values for word in _BLOCKS):
                if any(_has_calls(values[k]) for k in ("do", "else") if k in values):
                    return True
            elif any(_empty(v) or not isinstance(v, yaml.ScalarNode) for k, v in values.items() if k != "as"):
                return True
    return False
