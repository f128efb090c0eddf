r"""Foreign weights: a .safetensors or .npz file whose names and layouts are not the model's, brought in by rules.

A rules file (`--map RULES`) has one rule a line; `#` starts a comment:

    wte.weight                 -> emb.table
    h.*.attn.c_attn.weight     -> self_attention.*.wq, self_attention.*.wk, self_attention.*.wv | split 1 | reshape
    h.*.mlp.c_fc.weight        -> mlp.*.w1 | transpose
    /^blk(\d+)_(norm|bias)$/   -> block.\1.\2
    drop *.attn.mask

- The left side is a glob over whole names: `*` stands for any run of characters, `?` for one; what the n-th `*` stood for replaces the
  n-th `*` of each target. Between slashes it is a regular expression, whose groups the targets use as `\1`, `\g<name>`.
- `| transpose` reverses the axes, `| transpose 0 2 1` orders them; `| reshape` takes the target's shape, `| reshape 4 -1` a given one;
  `| split AXIS` cuts into as many equal parts as there are targets, `| split AXIS 10 10 5` into parts of these sizes. Steps run from left
  to right; a split comes at most once, and the steps after it act on each part.
- `drop PATTERN` leaves names of the file out.
- The first rule that matches a name is used. A name without a rule is its own target.

A YAML file says the same as a mapping: `wte.weight: emb.table | ...`, and `drop: [patterns]`.

A checkpoint of dslc is such a file too: its optimizer's states are left out, and an average of the parameters stands in their place.

Every parameter must get exactly one value and every name of the file must find a place; otherwise nothing is written and one DataError
lists all names of both sides that were left over, and all shapes that differ. States (running statistics) may be left without a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.dtypes import DType, of_numpy
from ..core.errors import DataError, Span, SyntaxError_, did_you_mean, nearest
from .store import Entry, ParameterStore, fitted
from .tensorfile import TensorFile, open_tensors

STEPS = ("transpose", "reshape", "split")


@dataclass(frozen=True)
class Step:
    """One step of a rule: `transpose`, `reshape` or `split` with its integers."""

    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A line of the rules. No targets: the names are dropped."""

    pattern: re.Pattern[str]
    targets: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    glob: bool = True

    def targets_of(self, name: str) -> tuple[str, ...] | None:
        """The parameters that `name` goes to, or None where the rule is not about it."""
        match = self.pattern.fullmatch(name) if self.glob else self.pattern.search(name)
        if match is None:
            return None
        if not self.glob:
            return tuple(match.expand(t) for t in self.targets)
        stars = match.groups()
        return tuple(_fill(t, stars) for t in self.targets)


def _fill(target: str, stars: Sequence[str]) -> str:
    parts = target.split("*")
    return parts[0] + "".join(star + part for star, part in zip(stars, parts[1:]))


def read_rules(rules: str | Path) -> list[Rule]:
    """The rules of a file, or of a text that holds `->` or a line end. SyntaxError_ with the line, DataError for no file."""
    if isinstance(rules, str) and ("->" in rules or "\n" in rules):
        return parse_rules(rules, "rules")
    path = Path(rules)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: the rules are not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return _yaml_rules(text, str(path)) if path.suffix in (".yaml", ".yml") else parse_rules(text, str(path))


def parse_rules(text: str, file: str) -> list[Rule]:
    """The rules of a text, one a line."""
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        body = re.sub(r"(^|\s)#.*", "", line).strip()
        if not body:
            continue
        span = Span(file, number, line.index(body[0]) + 1, number, len(line) + 1)
        if body.startswith("drop "):
            rules.append(_rule(body[5:].strip(), (), (), span))
            continue
        source, arrow, rest = body.partition("->")
        if not arrow:
            raise SyntaxError_("a rule is PATTERN -> TARGET, or drop PATTERN", span)
        rules.append(_parse_rule(source.strip(), rest, span))
    return rules


def _yaml_rules(text: str, file: str) -> list[Rule]:
    import yaml

    try:
        rows = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise SyntaxError_(f"not YAML: {getattr(error, 'problem', error)}", Span(file, line, 1, line, 2)) from None
    span = Span(file, 1, 1, 1, 2)
    if not isinstance(rows, dict):
        raise SyntaxError_("the rules are a mapping from patterns to targets", span)
    dropped = rows.pop("drop", [])
    if not isinstance(dropped, str | list):
        raise SyntaxError_("drop takes a pattern, or a list of patterns", span)
    rules = [_rule(str(p), (), (), span) for p in ([dropped] if isinstance(dropped, str) else dropped)]
    return rules + [_parse_rule(str(source), str(rest), span) for source, rest in rows.items()]


def _parse_rule(source: str, rest: str, span: Span) -> Rule:
    names, *steps = [part.strip() for part in rest.split("|")]
    targets = tuple(t.strip() for t in names.split(",") if t.strip())
    if not targets:
        raise SyntaxError_("a rule needs a target", span, help="to leave names out, write: drop PATTERN")
    parsed = tuple(_step(s, span) for s in steps)
    splits = sum(s.name == "split" for s in parsed)
    if splits != (len(targets) > 1):
        raise SyntaxError_(f"{len(targets)} targets and {splits} splits", span, help="write: PATTERN -> a, b | split AXIS")
    return _rule(source, targets, parsed, span)


def _step(text: str, span: Span) -> Step:
    name, *numbers = text.split() or [""]
    if name not in STEPS:
        raise SyntaxError_(f"unknown step '{name}'{did_you_mean(name, STEPS)}", span, help="the steps are: transpose, reshape, split")
    try:
        step = Step(name, tuple(int(n) for n in numbers))
    except ValueError:
        raise SyntaxError_(f"'{text}': {name} takes integers", span) from None
    if name == "split" and not numbers:
        raise SyntaxError_("split needs an axis", span, help="write: | split 0")
    return step


def _rule(source: str, targets: tuple[str, ...], steps: tuple[Step, ...], span: Span) -> Rule:
    glob = not (len(source) > 2 and source[0] == source[-1] == "/")
    try:
        pattern = _glob(source) if glob else re.compile(source[1:-1])
        if not glob:
            for target in targets:
                _check_template(pattern, target)
    except (re.error, IndexError) as error:
        raise SyntaxError_(f"{source}: {error}", span) from None
    if glob and any(t.count("*") > source.count("*") for t in targets):
        raise SyntaxError_("a target has more '*' than its pattern", span)
    return Rule(pattern, targets, steps, glob)


def _check_template(pattern: re.Pattern[str], target: str) -> None:
    """Raises re.error or IndexError where `target` refers to a group that `pattern` lacks."""
    empty = re.compile("|".join([pattern.pattern, ""]), pattern.flags)
    found = empty.search("")
    if found is not None:
        found.expand(target)


def _glob(text: str) -> re.Pattern[str]:
    table = {"*": "(.*)", "?": "."}
    return re.compile("".join(table.get(c) or re.escape(c) for c in text))


@dataclass
class _Findings:
    """What does not fit, collected until all is known."""

    homeless: list[str] = field(default_factory=list)  # names of the file
    shapes: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)  # parameters that a name was meant for


@dataclass(frozen=True)
class _Stored:
    """Where a path's values come from: the part `number` of what a rule makes of an array of the file. Read again they are the same."""

    tensors: TensorFile
    name: str
    steps: tuple[Step, ...]
    entries: list[Entry]
    number: int

    def __call__(self, array: np.ndarray) -> None:
        stored = self.tensors.entries[self.name]
        if not self.steps and (stored.dtype, stored.shape) == (self.entries[0].dtype, array.shape):
            self.tensors.read_into(self.name, array)
        else:
            np.copyto(array, _transformed(self.tensors.read(self.name), self.steps, self.entries)[self.number])  # type: ignore[arg-type]


def load_weights(store: ParameterStore, file: str | Path, map: str | Path | None = None) -> list[str]:
    """Writes the weights of `file` into the store by the rules of `map`; returns the paths written, or raises and writes nothing. Those of a
    safetensors file are read to where they lie in the store."""
    tensors = _without_training(open_tensors(file), store)
    rules = read_rules(map) if map is not None else []
    findings = _Findings()
    values: dict[str, np.ndarray | _Stored] = {}
    for name in tensors.entries:
        for path, value in _placed(store, tensors, name, rules, findings):
            if path in values:
                findings.twice.append(f"'{path}' gets a second value from '{name}'")
            values[path] = value
    missing = [e for e in store.entries("param") if e.path not in findings.tried]
    if findings.homeless or findings.shapes or findings.twice or missing:
        raise _mismatch(str(file), findings, missing, list(tensors.entries))
    store.read_from({path: value for path, value in values.items() if isinstance(value, _Stored)})
    store.assign({path: value for path, value in values.items() if not isinstance(value, _Stored)})
    return list(values)


def _without_training(tensors: TensorFile, store: ParameterStore) -> TensorFile:
    """Of a checkpoint what a model needs: the parameters, their average in their place where the run kept one, and the states that the
    store has (running statistics, not an optimizer's). Any other file as it is."""
    if "dslc" not in tensors.metadata:
        return tensors
    entries = {name: e for name, e in tensors.entries.items() if not name.startswith(("state/", "average/"))}
    for name, entry in tensors.entries.items():
        group, _, path = name.partition("/")
        if (group == "average" and path in entries) or (group == "state" and path in store):
            entries[path] = entry
    return replace(tensors, entries=entries)


def _placed(
    store: ParameterStore, tensors: TensorFile, name: str, rules: list[Rule], findings: _Findings
) -> Iterator[tuple[str, np.ndarray | _Stored]]:
    """The values that one array of the file gives, by path: where they are, if that they fit is known without reading them."""
    rule = Rule(re.compile(""), ())
    targets: tuple[str, ...] = (name,)
    for candidate in rules:
        found = candidate.targets_of(name)
        if found is not None:
            if not found:
                return
            rule, targets = candidate, found
            break
    unknown = [t for t in targets if t not in store]
    if unknown:
        guess = nearest(unknown[0], list(store))
        via = "" if unknown == [name] else f" (the rule gives {', '.join(unknown)})"
        findings.homeless.append(f"'{name}'{via}" + (f"; did you mean '{guess}'?" if guess else ""))
        return
    findings.tried.update(targets)
    entries = [store.entry(t) for t in targets]
    stored = tensors.entries[name]
    wanted = ", ".join(f"{e.path} {e}" for e in entries)
    if stored.size != sum(int(np.prod(e.shape, dtype=np.int64)) for e in entries):  # refused before it takes memory
        findings.shapes.append(f"'{name}' is {stored.dtype}{list(stored.shape)}, {wanted} expected")
        return
    unread = tensors.held is not None and all(_holds(e.dtype, stored.dtype) for e in entries)
    array = np.broadcast_to(np.zeros((), stored.dtype.numpy), stored.shape) if unread else tensors.read(name)
    parts = _transformed(array, rule.steps, entries)
    if isinstance(parts, str):
        findings.shapes.append(f"'{name}', {stored.dtype}{list(stored.shape)}: {parts}; {wanted} expected")
        return
    for number, (entry, part) in enumerate(zip(entries, parts)):
        if part.shape != entry.shape:
            hint = "; add | transpose" if part.T.shape == entry.shape else "; add | reshape"
            findings.shapes.append(f"'{name}' gives {list(part.shape)}, {entry.path} is {entry}{hint}")
        elif not _same_kind(entry, part):
            findings.shapes.append(f"'{name}' is {part.dtype}, {entry.path} is {entry}")
        else:
            yield entry.path, _Stored(tensors, name, rule.steps, entries, number) if unread else fitted(entry, part)


def _holds(wanted: DType, stored: DType) -> bool:
    """Whether a type holds every value of another one of its kind."""
    return wanted == stored or (wanted.kind == stored.kind and np.can_cast(stored.numpy, wanted.numpy))


def _same_kind(entry: Entry, part: np.ndarray) -> bool:
    found = of_numpy(part.dtype)
    return found.kind == entry.dtype.kind or (found.is_integer and entry.dtype.is_integer)


def _transformed(array: np.ndarray, steps: tuple[Step, ...], entries: list[Entry]) -> list[np.ndarray] | str:
    """The parts for the targets, or what is wrong with the steps."""
    parts = [array]
    for step in steps:
        try:
            if step.name == "split":
                parts = _split(parts[0], step.numbers, len(entries))
            else:
                parts = [_APPLY[step.name](part, step.numbers, entry) for part, entry in zip(parts, entries)]
        except (ValueError, IndexError) as error:
            return f"{step.name} {' '.join(map(str, step.numbers))}: {error}".replace(" :", ":")
    return parts


def _split(array: np.ndarray, numbers: tuple[int, ...], count: int) -> list[np.ndarray]:
    axis, *sizes = numbers
    if not sizes:
        return np.split(array, count, axis)
    if len(sizes) != count or min(sizes) < 0 or sum(sizes) != array.shape[axis]:
        raise ValueError(f"parts of {sizes} for {count} targets, of an axis of {array.shape[axis]}")
    return np.split(array, np.cumsum(sizes)[:-1], axis)


_APPLY: dict[str, Callable[[np.ndarray, tuple[int, ...], Any], np.ndarray]] = {
    "transpose": lambda a, numbers, entry: a.transpose(numbers or None),
    "reshape": lambda a, numbers, entry: a.reshape(numbers or entry.shape),
}


def _mismatch(file: str, findings: _Findings, missing: list[Entry], names: list[str]) -> DataError:
    """One error that tells everything at once."""
    notes = [f"in the file only: {n}" for n in findings.homeless]
    for entry in missing:
        guess = nearest(entry.path, names)
        notes.append(f"without a value: '{entry.path}', {entry}" + (f"; nearest in the file: '{guess}'" if guess else ""))
    notes += findings.shapes + findings.twice
    help = "say where the names go in a file of rules: --map RULES, with lines such as  fc.weight -> linear.w | transpose"
    return DataError(f"the weights of {file} do not fit the model", notes=notes, help=help)
