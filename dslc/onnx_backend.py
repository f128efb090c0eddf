"""onnx's Backend interface: `dslc.onnx_backend.prepare(model).run(inputs)`, so that onnx's own tests run against dslc.

A prepared model is compiled at its first run, for the shapes of what it is given. Inputs whose values decide shapes (the shape of a Reshape, the axes
of a Squeeze) become constants of the program; another value makes another program. Sequences and optionals are given as lists and None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from .compiled import Compiled
from .core.errors import DataError, Error, did_you_mean
from .frontend.onnx.call import NeedsValue
from .frontend.onnx.types import BY_CODE, STRING
from .model import Model
from .targets import TARGETS

MOST_PROGRAMS = 8  # that a prepared model keeps


class Prepared(BackendRep):
    """A model that runs on one target."""

    def __init__(self, model: onnx.ModelProto, target: str):
        self.model, self.target = model, target
        self._fixed: set[str] = set()  # inputs that are constants of the program
        self._programs: dict[Any, Compiled] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the graph's order. `inputs`: arrays in the graph's order, or by name. Raises dslc.Error."""
        given = self._named(inputs)
        program, fed = self._program(given)
        taken = {p.name for p in program.executable.ports}
        made = program.program({name: value for name, value in fed.items() if name in taken})
        return tuple(_result(port, made) for port in self.model.graph.output)

    def _named(self, inputs: Any) -> dict[str, Any]:
        stored = {t.name for t in self.model.graph.initializer}
        names = [p.name for p in self.model.graph.input]
        if isinstance(inputs, Mapping):
            for name in inputs:
                if name not in names:
                    raise DataError(f"the graph has no input '{name}'{did_you_mean(name, names)}")
            return dict(inputs)
        rows = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        free = names if len(rows) == len(names) else [n for n in names if n not in stored]
        if len(rows) > len(free):
            raise DataError(f"the graph takes {len(free)} inputs, {len(rows)} given")
        return dict(zip(free, rows))

    def _program(self, given: dict[str, Any]) -> tuple[Compiled, dict[str, np.ndarray]]:
        while True:
            concrete, fed = specialized(self.model, given, self._fixed)
            key = tuple((n, v.shape) for n, v in fed.items()), tuple((n, np.asarray(given[n]).tobytes()) for n in sorted(self._fixed))
            if key in self._programs:
                return self._programs[key], fed
            try:
                compiled = Compiled(Model(concrete), "run", self.target)
            except NeedsValue as need:
                if need.input in self._fixed or need.input not in given:
                    raise
                self._fixed.add(need.input)
                continue
            while len(self._programs) >= MOST_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = compiled
            return compiled, fed


def specialized(model: onnx.ModelProto, given: Mapping[str, Any], fixed: set[str]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model for these inputs: shapes filled in, inputs in `fixed` as constants, sequences and optionals taken apart; and the tensors to feed,
    in the types that carry them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    fed: dict[str, np.ndarray] = {}
    ports, nodes = [], []
    for port in model.graph.input:
        if port.name not in given:
            ports.append(port)
            continue
        value = given[port.name]
        if port.name in fixed:
            nodes.append(onnx.helper.make_node("Constant", [], [port.name], value=_tensor(port.type.tensor_type.elem_type, value)))
        elif port.type.HasField("tensor_type"):
            ports.append(_port(port.name, port.type, value, fed))
        else:
            _taken_apart(port.name, port.type, value, fed, ports, nodes)
    for name in fixed | {p.name for p in model.graph.input if p.name in given}:
        for k in reversed([k for k, t in enumerate(made.graph.initializer) if t.name == name]):
            del made.graph.initializer[k]
    del made.graph.input[:]
    made.graph.input.extend(ports)
    rest = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*nodes, *rest])
    return made, fed


def _tensor(code: int, value: Any) -> onnx.TensorProto:
    array = np.asarray(value)
    if code == onnx.TensorProto.STRING:
        return onnx.helper.make_tensor("", code, array.shape, [str(v) for v in array.reshape(-1)])  # type: ignore[misc]
    return onnx.numpy_helper.from_array(array)


def _port(name: str, proto: onnx.TypeProto, value: Any, fed: dict[str, np.ndarray]) -> onnx.ValueInfoProto:
    """The declaration of a tensor with the sizes of a value; DataError where its rank or a known size differs."""
    code, declared = proto.tensor_type.elem_type, proto.tensor_type
    elem, array = BY_CODE.get(code), np.asarray(value)
    if elem is None or elem is STRING:
        return onnx.helper.make_tensor_value_info(name, code, array.shape)
    if declared.HasField("shape"):
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in declared.shape.dim]
        shown = ", ".join("?" if n is None else str(n) for n in sizes)
        if len(sizes) != array.ndim or any(n is not None and n != m for n, m in zip(sizes, array.shape)):
            raise DataError(f"the input '{name}' is {elem.name}[{shown}], given {list(array.shape)}")
    native = onnx.helper.tensor_dtype_to_np_dtype(code)
    if array.dtype != native and not np.can_cast(array.dtype, native, "same_kind"):
        raise DataError(f"the input '{name}' is {elem.name}, given {array.dtype}")
    fed[name] = elem.carry(array)
    return onnx.helper.make_tensor_value_info(name, code, array.shape)


def _taken_apart(name: str, proto: onnx.TypeProto, value: Any, fed: dict[str, np.ndarray], ports: list[Any], nodes: list[Any]) -> None:
    """A sequence as the tensors in it, an optional as what it holds, put together again by nodes."""
    if proto.HasField("optional_type"):
        if value is None:
            nodes.append(onnx.helper.make_node("Optional", [], [name], type=proto.optional_type.elem_type))
            return
        inner = proto.optional_type.elem_type
        if inner.HasField("tensor_type"):
            ports.append(_port(f"{name}.held", inner, value, fed))
        else:
            _taken_apart(f"{name}.held", inner, value, fed, ports, nodes)
        nodes.append(onnx.helper.make_node("Optional", [f"{name}.held"], [name]))
        return
    if not proto.HasField("sequence_type"):
        raise DataError(f"the input '{name}' is a {proto.WhichOneof('value')}, which is not supported")
    parts = [f"{name}.{k}" for k in range(len(value))]
    ports += [_port(part, proto.sequence_type.elem_type, v, fed) for part, v in zip(parts, value)]
    if parts:
        nodes.append(onnx.helper.make_node("SequenceConstruct", parts, [name]))
    else:
        nodes.append(onnx.helper.make_node("SequenceEmpty", [], [name], dtype=proto.sequence_type.elem_type.tensor_type.elem_type))


def _result(port: onnx.ValueInfoProto, made: Mapping[str, np.ndarray]) -> Any:
    """An output in ONNX's own type: an array, a list of arrays, or None for an empty optional."""
    proto = port.type.optional_type.elem_type if port.type.HasField("optional_type") else port.type
    if proto.HasField("sequence_type"):
        inner = proto.sequence_type.elem_type
        found: list[np.ndarray] = []
        while f"{port.name}.{len(found)}" in made:
            found.append(_released(inner, made[f"{port.name}.{len(found)}"]))
        return found
    return _released(proto, made[port.name]) if port.name in made else None


def _released(proto: onnx.TypeProto, array: np.ndarray) -> np.ndarray:
    elem = BY_CODE.get(proto.tensor_type.elem_type)
    return array if elem is None else elem.release(array)


class DslcBackend(Backend):
    """The interface itself. Devices: CPU, and CUDA where there is a GPU."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """`target` overrides the device: any of dslc's targets."""
        return Prepared(model, kwargs.get("target") or device.split(":")[0].lower())

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[Any] | None = None, **kwargs: Any) -> Any:
        """One node, on inputs in its order; `outputs_info`: (dtype, shape) of the outputs, else onnx's inference tells their types."""
        names = [name for name in node.input if name]
        arrays = dict(zip(names, [np.asarray(v) for v in inputs]))
        ports = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in arrays.items()]
        infos = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        if outputs_info is not None:
            infos = [
                onnx.helper.make_tensor_value_info(i.name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(d)), s)
                for i, (d, s) in zip(infos, outputs_info)
            ]
        opset = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        imports = [onnx.helper.make_opsetid(node.domain, opset if node.domain in ("", "ai.onnx") else 1)]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "node", ports, infos), opset_imports=imports)
        if outputs_info is None:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """All operators are there; whether shapes work out is known when it runs."""
        from .frontend.onnx.coverage import missing

        return not missing(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        target = TARGETS.get(device.split(":")[0].lower())
        return target is not None and target.missing() is None


prepare, run_model, run_node = DslcBackend.prepare, DslcBackend.run_model, DslcBackend.run_node
supports_device, is_compatible = DslcBackend.supports_device, DslcBackend.is_compatible
__all__ = ["DslcBackend", "Error", "Prepared", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]
