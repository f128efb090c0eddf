"""A program with everything that it imports: files, their names, and the library's layers, which are found without an import."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dslc.core.errors import DataError, NameError_, Span, SyntaxError_, did_you_mean, remember_source

from . import syntax as s
from .parse import parse_expression, parse_file, parse_part, parse_text, read_text
from .tokens import SourceText
from .values import LayerValue

LIBRARY = Path(__file__).parent / "library"


@dataclass
class FileScope:
    """The names of one file: its own layers and models, its imports, its lets (evaluated when first used)."""

    program: s.Program
    folder: Path
    layers: dict[str, LayerValue] = field(default_factory=dict)
    lets: dict[str, s.Expr] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Span] = field(default_factory=dict)  # of all these names

    def claim(self, name: str, span: Span) -> None:
        """A name of the file, which its text may define in any order, and so only once."""
        if name in self.places:
            raise NameError_(
                f"'{name}' is defined twice in this file", [span, self.places[name]], notes=[f"the first one stands at {self.places[name]}"]
            )
        self.places[name] = span


@dataclass
class Source:
    """A parsed program. `texts` are all files that belong to it, by name, the library's left out."""

    file: str
    path: Path | None
    main: FileScope
    overrides: dict[str, Any]
    texts: dict[str, str]
    scopes: dict[int, FileScope] = field(default_factory=dict)
    graphs: dict[tuple, s.Model] = field(default_factory=dict)  # imported, by file and options

    @property
    def folder(self) -> Path:
        return self.main.folder

    def scope_of(self, definition: s.Layer | s.Model) -> FileScope:
        return self.scopes[id(definition)]

    def model(self, name: str | None = None) -> LayerValue:
        """The model of that name, or the file's only or last one."""
        models = {k: v for k, v in self.main.layers.items() if isinstance(v.definition, s.Model)}
        if not models:
            raise NameError_("the file has no model", self.main.program.span, help="a model is written model Name: ...")
        if name is not None and name not in models:
            raise NameError_(f"no model '{name}'{did_you_mean(name, models)}", help=f"the file has {', '.join(models)}")
        return models[name] if name is not None else list(models.values())[-1]

    def definitions(self, kind: type) -> list[Any]:
        return [d for d in self.main.program.definitions if isinstance(d, kind)]


def load_program(spec: str | Path, overrides: Mapping[str, Any] | None = None) -> Source:
    """A `.dsl`, `.yaml` or `.onnx` file, the text of a program, or a ModelProto of onnx in memory, with its imports."""
    text = None
    if not isinstance(spec, (str, Path)) or str(spec).endswith(".onnx"):
        return _load_graph(spec, overrides)
    if isinstance(spec, str) and ("\n" in spec or (":" in spec and not _exists(spec))):
        text, path = spec, None
    else:
        path = Path(spec)
    source = Source("", path, None, dict(overrides or {}), {})  # type: ignore[arg-type]
    if text is not None:
        source.file = "<text>"
        source.texts[source.file] = text
        program, folder = parse_text(text, source.file), Path()
    else:
        assert path is not None
        program = _parse_path(path, str(spec), source)
        source.file, folder = str(spec), path.parent
    source.main = _scope(program, folder, source, ())
    return source


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than any name may be
        return False


def _load_graph(spec: Any, overrides: Mapping[str, Any] | None) -> Source:
    """A program that is nothing but an ONNX graph."""
    from .onnx.layer import load_graph, load_proto

    path = Path(spec) if isinstance(spec, (str, Path)) else None
    source = Source(str(spec) if path else "<onnx>", path, None, dict(overrides or {}), {})  # type: ignore[arg-type]
    definition = load_graph(path, str(spec), source) if path else load_proto(spec, source)
    source.main = _scope(s.Program(source.file, (definition,), span=definition.span), path.parent if path else Path(), source, ())
    return source


def _parse_path(path: Path, shown: str, source: Source) -> s.Program:
    source.texts[shown] = read_text(path)
    if path.suffix in (".yaml", ".yml"):
        from .yaml_form import parse_yaml

        return parse_yaml(source.texts[shown], shown)
    return parse_text(source.texts[shown], shown)


def _scope(program: s.Program, folder: Path, source: Source, importing: tuple[Path, ...]) -> FileScope:
    scope = FileScope(program, folder)
    for definition in program.definitions:
        match definition:
            case s.Layer() | s.Model():
                scope.claim(definition.name, definition.span)
                scope.layers[definition.name] = LayerValue(definition)
                source.scopes[id(definition)] = scope
            case s.Let():
                for binding in definition.bindings:
                    scope.claim(binding.name, binding.span)
                    scope.lets[binding.name] = binding.value
            case s.Assign(targets=(s.Target(name=name, axes=None),), value=value):
                scope.claim(name, definition.span)
                scope.lets[name] = value
            case s.Assign():
                raise SyntaxError_("outside of layers and models a line defines one name", definition.span, help="let a = 1, b = 2")
            case s.FromImport():
                _import(definition, scope, source, importing)
    return scope


def _import(statement: s.FromImport, scope: FileScope, source: Source, importing: tuple[Path, ...]) -> None:
    path = (scope.folder / statement.path).resolve()
    if path in importing:
        raise NameError_(f"'{statement.path}' imports itself, through {' and '.join(p.name for p in importing)}", statement.span)
    if not path.is_file():
        if statement.path == "library.dsl" or (LIBRARY / statement.path).is_file():
            for alias in statement.names:
                scope.claim(alias.alias or alias.name, alias.span)
                found = library_layer(alias.name, source)
                if found is None:
                    raise NameError_(f"the library has no '{alias.name}'{did_you_mean(alias.name, library_names())}", alias.span)
                scope.layers[alias.alias or alias.name] = found
            return
        raise DataError(f"there is no file {statement.path}", statement.span, notes=[f"looked for in {scope.folder}"])
    other = _scope(_parse_path(path, str(scope.folder / statement.path), source), path.parent, source, (*importing, path))
    for alias in statement.names:
        name = alias.alias or alias.name
        scope.claim(name, alias.span)
        if alias.name in other.layers:
            scope.layers[name] = other.layers[alias.name]
        elif alias.name in other.lets:
            scope.lets[name] = other.lets[alias.name]
        else:
            known = [*other.layers, *other.lets]
            raise NameError_(f"{statement.path} has no '{alias.name}'{did_you_mean(alias.name, known)}", alias.span)


# --- the library ------------------------------------------------------------------------------------------------------------------------


@functools.cache
def _library_index() -> dict[str, Path]:
    """The file of every library layer, found without parsing."""
    out = {}
    for path in sorted(LIBRARY.glob("*.dsl")):
        for name in re.findall(r"^layer (\w+)\(", path.read_text(), re.MULTILINE):
            out[name] = path
    return out


def library_names() -> list[str]:
    return list(_library_index())


@functools.cache
def _library_program(path: Path) -> s.Program:
    return parse_file(path, f"library/{path.name}")


def library_layer(name: str, source: Source) -> LayerValue | None:
    """A layer of the standard library."""
    path = _library_index().get(name)
    if path is None:
        return None
    program = _library_program(path)
    scope = FileScope(program, LIBRARY)
    definition = next(d for d in program.definitions if isinstance(d, s.Layer) and d.name == name)
    for d in program.definitions:
        if isinstance(d, s.Layer):
            scope.layers[d.name] = LayerValue(d)
            source.scopes[id(d)] = scope
    return LayerValue(definition)


def text_value(text: str, name: str) -> s.Expr:
    """An override given as text of the language (`--set name=value`)."""
    return parse_expression(text, f"--set {name}")


def setting_line(key: str, text: str) -> s.Setting:
    """An override of a train key given as text: what would stand after the key (`--set "memory=2 GiB"`)."""
    file = f"--set {key}"
    remember_source(file, text)
    source = SourceText(text, file, 1, 1)
    return s.Setting(span=source.span(0, len(text)), key=key, values=tuple(parse_part(source, "values")))
