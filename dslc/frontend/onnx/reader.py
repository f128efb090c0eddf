"""Reading an ONNX file that nobody vouches for: every size, name and path is checked before it is used."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dslc.core.errors import DataError, Error, NameError_, ShapeError, Span, UnsupportedOp, remember_source
from dslc.core.heldfile import HeldFile

from . import types
from .external import external_place
from .graph import Graph, Literal, Node, Port, Stored
from .order import ordered
from .slim import slim

MOST_BYTES = 1 << 31  # protobuf's own limit of one message
MOST_ELEMENTS = 1 << 40
MOST_RANK = 32
MOST_DEPTH = 16  # of graphs in graphs
OLDEST = 6  # of ai.onnx

Extent = tuple[HeldFile, int, int]  # a file, where something begins there, its bytes


class Reader:
    """Decodes one model. `lines`: the listing of its nodes so far, which errors quote. `data`: of initializers whose data is still in the file, where
    it lies, by their number."""

    def __init__(self, file: str, folder: Path | None, data: Mapping[int, Extent] | None = None):
        self.file, self.folder, self.data = file, folder, data or {}
        self.lines: list[str] = []
        self.opened: dict[Path, HeldFile] = {}

    # --- places

    def place(self, text: str, depth: int = 0) -> Span:
        """A new line of the listing."""
        shown = "  " * depth + text
        self.lines.append(shown)
        return Span(self.file, len(self.lines), 1 + 2 * depth, len(self.lines), len(shown) + 1)

    def head(self) -> Span:
        return Span(self.file, 1, 1, 1, 1)

    def named(self, *names: Any) -> None:
        """Names are texts: protobuf gives bytes where they are no UTF-8."""
        for name in names:
            if not isinstance(name, str):
                raise DataError(f"{self.file}: the name {name!r} is no text")

    def once(self, names: list[str], what: str) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise NameError_(f"two {what} are called '{twice[0]}'", self.head())

    # --- values

    def literal(self, proto: Any, where: str, data: Extent | None = None) -> Literal:
        """A tensor of the file; its sizes are checked against its data before memory is taken. `data`: where that still lies."""
        import onnx
        from onnx import numpy_helper

        elem, shape = self.elem(proto.data_type, where), self.shape(proto.dims, where)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            data = external_place(proto, self.folder, self.file, where, self.opened)
        if data is not None or proto.HasField("raw_data"):
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
            bits = elem.bits if 0 < elem.bits < 8 else 4 if elem.name == "float4e2m1" else 8 * dtype.itemsize
            length = data[2] if data is not None else len(proto.raw_data)
            if length != (count * bits + 7) // 8:
                raise DataError(f"{self.file}: {where} is {elem.name}{list(shape)} and has {length} bytes of data")
            if data is not None:
                if bits == 8 * dtype.itemsize and dtype.isbuiltin == 1 and dtype.kind in "fiu" and sys.byteorder == "little":
                    return Literal(Stored(data[0], data[1], dtype, shape, where), elem)
                read = np.empty(length, np.uint8)
                data[0].read_into(data[1], read, where)
                proto = onnx.TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=read.tobytes())
        else:
            stored = sum(
                len(f) for f in (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data, proto.uint64_data, proto.string_data)
            )
            if stored * 8 < count:  # up to 4 packed values an entry, and two for a complex one
                raise DataError(f"{self.file}: {where} is {elem.name}{list(shape)} and has {stored} elements of data")
        try:
            array = numpy_helper.to_array(proto)
        except Exception as error:
            raise DataError(f"{self.file}: the data of {where} does not fit its type: {error}") from None
        return Literal(np.asarray(array).reshape(shape), elem)

    def elem(self, code: int, where: str) -> types.Elem:
        if code not in types.BY_CODE:
            raise UnsupportedOp(f"{self.file}: {where} has element type {code}, which is not supported", help="complex numbers are not there yet")
        return types.BY_CODE[code]

    def shape(self, dims: Iterable[int], where: str) -> tuple[int, ...]:
        shape = tuple(int(n) for n in dims)
        if len(shape) > MOST_RANK or any(n < 0 for n in shape) or np.prod(shape or (1,), dtype=object) > MOST_ELEMENTS:
            raise ShapeError(f"{self.file}: {where} has the shape {list(shape[:MOST_RANK])}")
        return shape

    def sparse(self, proto: Any, where: str) -> Literal:
        """A sparse tensor made dense: its indices are positions, or coordinates a row."""
        values, indices = self.literal(proto.values, where), self.literal(proto.indices, where).array
        shape = self.shape(proto.dims, where)
        if int(np.prod(shape, dtype=object)) > 1 << 28:
            raise ShapeError(f"{self.file}: {where} is sparse, with the shape {list(shape)}: too large to be made dense")
        flat = indices if indices.ndim == 1 else indices @ np.array([int(np.prod(shape[k + 1 :])) for k in range(len(shape))])
        out = np.zeros(int(np.prod(shape)), values.array.dtype)
        if flat.shape != (values.array.size,) or (flat.size and not (flat.min() >= 0 and flat.max() < out.size)):
            raise DataError(f"{self.file}: {where} has indices outside its shape {list(shape)}")
        out[flat] = values.array.reshape(-1)
        return Literal(out.reshape(shape), values.elem)

    def attribute(self, proto: Any, opsets: Mapping[str, int], depth: int, owner: str) -> Any:
        from onnx import AttributeProto as A

        self.named(proto.name, proto.ref_attr_name)
        if proto.ref_attr_name:
            raise DataError(f"{self.file}: attribute '{proto.name}' of {owner} refers to an attribute of a function, and stands in none")
        where = f"attribute '{proto.name}' of {owner}"
        match proto.type:
            case A.FLOAT:
                return float(proto.f)
            case A.INT:
                return int(proto.i)
            case A.STRING:
                return text(proto.s)
            case A.TENSOR:
                return self.literal(proto.t, where)
            case A.SPARSE_TENSOR:
                return self.sparse(proto.sparse_tensor, where)
            case A.GRAPH:
                return self.graph(proto.g, opsets, depth + 1)
            case A.TYPE_PROTO:
                return self.port("", proto.tp, self.head())
            case A.FLOATS:
                return tuple(float(v) for v in proto.floats)
            case A.INTS:
                return tuple(int(v) for v in proto.ints)
            case A.STRINGS:
                return tuple(text(v) for v in proto.strings)
            case A.TENSORS:
                return tuple(self.literal(v, where) for v in proto.tensors)
            case A.GRAPHS:
                return tuple(self.graph(v, opsets, depth + 1) for v in proto.graphs)
        raise UnsupportedOp(f"{self.file}: {where} has the unknown type {proto.type}")

    # --- graphs

    def node(self, proto: Any, opsets: Mapping[str, int], depth: int) -> Node:
        if depth > MOST_DEPTH:
            raise UnsupportedOp(f"{self.file}: graphs lie in each other more than {MOST_DEPTH} deep")
        self.named(proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        inputs, outputs = tuple(proto.input), tuple(proto.output)
        plain = [f"{a.name}={_shown(a)}" for a in proto.attribute]
        head = f"{proto.name}: " if proto.name else ""
        listed = f"{head}{', '.join(outputs)} = {domain + '.' if domain else ''}{proto.op_type}({', '.join([*inputs, *plain])})"
        span = self.place(listed[:400], depth)
        owner = f"{proto.op_type} '{proto.name}'"
        try:
            attributes = {a.name: self.attribute(a, opsets, depth, owner) for a in proto.attribute}
        except Error as error:
            error.spans = error.spans or [span]
            raise
        return Node(proto.op_type, domain, proto.name, inputs, outputs, attributes, span, proto)

    def port(self, name: str, proto: Any, span: Span) -> Port:
        """An input's or output's type; of a sequence or optional the element's."""
        kind = proto.WhichOneof("value")
        self.named(name, *(d.dim_param for d in proto.tensor_type.shape.dim))
        shown = {"tensor_type": "tensor", "sequence_type": "sequence", "optional_type": "optional"}.get(kind)
        if kind is None:
            return Port(name, "tensor", None, None, span)
        if shown is None:
            raise UnsupportedOp(f"{self.file}: '{name}' is a {kind.removesuffix('_type')}, which is not supported", span)
        if shown != "tensor":
            inner = self.port(name, getattr(proto, kind).elem_type, span)
            return Port(name, shown, inner.elem, inner.axes, span)
        tensor = proto.tensor_type
        axes: list[int | str | None] = []
        for d in tensor.shape.dim:
            if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0:
                axes.append(int(d.dim_value))
            else:
                axes.append(d.dim_param or None)
        self.shape([n for n in axes if isinstance(n, int)], f"'{name}'")
        elem = self.elem(tensor.elem_type, f"'{name}'") if tensor.elem_type else None
        return Port(name, shown, elem, tuple(axes) if tensor.HasField("shape") else None, span)

    def graph(self, proto: Any, opsets: Mapping[str, int], depth: int = 0) -> Graph:
        """A graph whose nodes are in an order in which they can run."""
        self.named(proto.name, *(t.name for t in proto.initializer), *(t.values.name for t in proto.sparse_initializer))
        inputs = tuple(self.port(p.name, p.type, self.place(f"input {p.name}", depth)) for p in proto.input)
        data = self.data if depth == 0 else {}
        constants = {t.name: self.literal(t, f"initializer '{t.name}'", data.get(k)) for k, t in enumerate(proto.initializer)}
        constants |= {t.values.name: self.sparse(t, f"initializer '{t.values.name}'") for t in proto.sparse_initializer}
        nodes = [self.node(n, opsets, depth) for n in proto.node]
        outputs = tuple(self.port(p.name, p.type, self.place(f"output {p.name}", depth)) for p in proto.output)
        names = [p.name for p in inputs]
        self.once(names, "inputs")
        self.once([*(t.name for t in proto.initializer), *(t.values.name for t in proto.sparse_initializer)], "initializers")
        given = tuple(p for p in inputs if p.name not in constants)
        known = {*names, *constants} if depth == 0 else None  # an inner graph sees the names around it
        return Graph(proto.name, given, outputs, constants, ordered(nodes, known, [p for p in outputs]), opsets, file=self.file)


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _shown(a: Any) -> str:
    """An attribute in the listing, in short."""
    value = {1: lambda: f"{a.f:g}", 2: lambda: str(a.i), 3: lambda: repr(text(a.s[:40])), 7: lambda: str(list(a.ints[:8]))}.get(a.type)
    return value() if value else "..."


def _parsed(data: bytes, file: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as an ONNX model: {error}", help="it may be truncated, or of another format") from None
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise DataError(f"{file} holds no ONNX graph", help="it may be truncated, or of another format")
    return proto


def _opened(path: Path) -> tuple[bytes, dict[int, Extent]]:
    """The model of a file without the data of its large initializers; where that lies, by their number."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than 2 GiB, which no ONNX model can be", help="weights that large lie beside it, as external data")
        file = HeldFile(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    short, places = slim(file)
    return short, {k: (file, *place) for k, place in enumerate(places) if place is not None}


def _changed_since(name: str, opset: int) -> bool:
    """The operator had another meaning in an opset before the oldest that is supported."""
    from .table import schema_of

    schema = schema_of(name, "", OLDEST) if opset < OLDEST else None
    return opset < OLDEST and (schema is None or schema.since_version > opset)


def opsets_of(proto: Any, file: str) -> dict[str, int]:
    """The version of each domain; refused where it is of the future, or where an op of the graph had another meaning than in OLDEST."""
    import onnx

    found = {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in proto.opset_import}
    newest = onnx.defs.onnx_opset_version()
    found.setdefault("", newest if proto.functions or found else 1)
    if found[""] > newest:
        raise UnsupportedOp(f"{file} uses opset {found['']} of ai.onnx, the newest known one is {newest}", help="a newer onnx package may know it")
    changed = {n.op_type for n in proto.graph.node if n.domain in ("", "ai.onnx") and _changed_since(n.op_type, found[""])}
    if changed:
        raise UnsupportedOp(
            f"{file} uses opset {found['']} of ai.onnx, where {', '.join(sorted(changed)[:4])} had another meaning than in opset {OLDEST}",
            help="onnx.version_converter makes a newer model of it",
        )
    return found


def decode(proto: Any, file: str, folder: Path | None, data: Mapping[int, Extent] | None = None) -> Graph:
    """A ModelProto as a checked graph. `folder`: where external data may lie; None: nowhere. `data` as in `Reader`."""
    reader = Reader(file, folder, data)
    try:
        opsets = opsets_of(proto, file)
        functions = {}
        graph = reader.graph(proto.graph, opsets)
        for f in proto.functions:
            functions["" if f.domain == "ai.onnx" else f.domain, f.name] = f
        return replace(graph, functions=functions)
    except (ValueError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise DataError(f"{file} is no sound ONNX model: {type(error).__name__}: {error}") from None
    finally:
        remember_source(file, "\n".join(reader.lines))


def read(path: Path, shown: str) -> Graph:
    """The graph of a file; `shown` is the file's name in messages."""
    short, data = _opened(path)
    return decode(_parsed(short, shown), shown, path.parent, data)


__all__ = ["Reader", "decode", "read"]
