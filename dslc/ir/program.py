"""A program in MLIR: one function, whose arguments and results carry a name, a role and a line of the model file.

Arguments have the roles `input`, `scalar`, `param` and `state`; results `output`, `loss`, `metric`, and `param` and `state` for next values, bound
by name to the argument that they replace. The scalars `seed` (int64), `step` and `microbatch` (int32) exist where something draws or counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dslc.core import dtypes
from dslc.core.errors import NameError_

from .mlir import func, ir
from .types import TensorType, type_of

SCALARS = {"seed": TensorType(dtypes.INT64, ()), "step": TensorType(dtypes.INT32, ()), "microbatch": TensorType(dtypes.INT32, ())}


@dataclass(frozen=True)
class Slot:
    """One argument or result of a program. `bounds`: [low, high) of the values of an input that is used as an index."""

    name: str
    role: str
    type: TensorType
    line: int = 0
    bounds: tuple[int, int] | None = None

    def attributes(self) -> ir.DictAttr:
        i64 = ir.IntegerType.get_signless(64)
        named: dict[str, ir.Attribute] = {
            "nn.name": ir.StringAttr.get(self.name),
            "nn.role": ir.StringAttr.get(self.role),
            "nn.line": ir.IntegerAttr.get(i64, self.line),
        }
        if self.bounds:
            named["nn.bounds"] = ir.DenseI64ArrayAttr.get(list(self.bounds))
        return ir.DictAttr.get(named)


def _slot(attributes: ir.DictAttr, t: TensorType) -> Slot:
    bounds = tuple(ir.DenseI64ArrayAttr(attributes["nn.bounds"])) if "nn.bounds" in attributes else None
    name, role = (ir.StringAttr(attributes[k]).value for k in ("nn.name", "nn.role"))
    return Slot(name, role, t, ir.IntegerAttr(attributes["nn.line"]).value, bounds)


def functions_of(module: ir.Module) -> list[func.FuncOp]:
    """The program, and behind it what prepares its parameters (passes/prepare.py), where it is not yet split off."""
    return [op for op in module.body.operations if isinstance(op, func.FuncOp)]


def program_of(module: ir.Module) -> func.FuncOp:
    """The program of a module, its first function."""
    return functions_of(module)[0]


def blocks_of(program: func.FuncOp) -> Iterator[ir.Block]:
    """The bodies of loops and branches, inner ones first, then the function's own block. The block that is at hand may be changed."""
    yield from _blocks_from(program.entry_block)


def _blocks_from(block: ir.Block) -> Iterator[ir.Block]:
    for op in list(block.operations):
        for region in op.regions:
            yield from _blocks_from(region.blocks[0])
    yield block


def name_of(op: func.FuncOp) -> str:
    """The program's name: which of a model's programs it is."""
    return str(ir.StringAttr(op.attributes["sym_name"]).value)


def set_name(op: func.FuncOp, name: str) -> None:
    op.attributes["sym_name"] = ir.StringAttr.get(name)


def start_program(module: ir.Module, name: str, arguments: Sequence[Slot]) -> func.FuncOp:
    """An empty function of the given arguments at the module's end; `finish_program` gives it its results."""
    with ir.InsertionPoint(module.body):
        op = func.FuncOp(name, ([a.type.to_mlir() for a in arguments], []))
    op.add_entry_block()
    set_arguments(op, arguments)
    return op


def add_argument(op: func.FuncOp, slot: Slot) -> ir.Value:
    """One more argument at the end."""
    t = slot.type.to_mlir()
    before = op.type
    op.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get([*before.inputs, t], before.results))
    op.attributes["arg_attrs"] = ir.ArrayAttr.get([*op.attributes.get("arg_attrs", []), slot.attributes()])
    return op.entry_block.add_argument(t, ir.Location.unknown())


def scalar(op: func.FuncOp, name: str) -> ir.Value:
    """One of SCALARS, an argument from its first use on. NameError_ where another argument has its name."""
    found = argument(op, name)
    if found is None:
        return add_argument(op, Slot(name, "scalar", SCALARS[name]))
    if slot_of(found).role != "scalar":
        raise NameError_(f"the {slot_of(found).role} '{name}' has the name of the {name} that this program counts or draws by", help="rename it")
    return found


def set_arguments(op: func.FuncOp, slots: Sequence[Slot]) -> None:
    op.attributes["arg_attrs"] = ir.ArrayAttr.get([s.attributes() for s in slots])


def finish_program(op: func.FuncOp, results: Sequence[tuple[Slot, ir.Value]]) -> None:
    """Ends the function with these results; an earlier return is replaced."""
    block = op.entry_block
    operations = list(block.operations)
    if operations and isinstance(operations[-1], func.ReturnOp):
        operations[-1].erase()
    with ir.InsertionPoint(block), ir.Location.unknown():
        func.ReturnOp([v for _, v in results])
    slots = [replace(s, type=type_of(v)) for s, v in results]
    op.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(list(op.type.inputs), [s.type.to_mlir() for s in slots]))
    op.attributes["res_attrs"] = ir.ArrayAttr.get([s.attributes() for s in slots])


def arguments_of(op: func.FuncOp) -> list[Slot]:
    types = [type_of(v) for v in op.entry_block.arguments]
    given = op.attributes.get("arg_attrs", [])
    return [_slot(ir.DictAttr(a), t) for a, t in zip(given, types)]


def stored_of(op: func.FuncOp) -> list[ir.Value]:
    """The arguments that lie in the device's memory between runs: parameters, states, and what is prepared from them."""
    return [v for slot, v in zip(arguments_of(op), op.entry_block.arguments) if slot.role in ("param", "state", "prepared")]


def slot_of(value: ir.BlockArgument) -> Slot:
    """The slot of one argument of a program."""
    given = ir.ArrayAttr(value.owner.owner.attributes["arg_attrs"])
    return _slot(ir.DictAttr(given[value.arg_number]), type_of(value))


def results_of(op: func.FuncOp) -> list[tuple[Slot, ir.Value]]:
    """The results with the values that are returned for them."""
    end = list(op.entry_block.operations)[-1]
    given = op.attributes.get("res_attrs", [])
    return [(_slot(ir.DictAttr(a), type_of(v)), v) for a, v in zip(given, end.operands)]


def argument(op: func.FuncOp, name: str) -> ir.Value | None:
    """The argument of that name."""
    for attributes, value in zip(op.attributes.get("arg_attrs", []), op.entry_block.arguments):
        if ir.StringAttr(ir.DictAttr(attributes)["nn.name"]).value == name:
            return value
    return None
