"""From kernels and a plan to object code.

Each kernel becomes an internal function (thread, threads, scratch, operands...); the plan becomes `dslc_plan(thread, threads, arena, table,
control)`, which every thread runs: calls with a barrier after each, loops and branches. The memory that `arena` points to holds, in order, the
constants, the plan's arena and each thread's scratch area, each starting at a multiple of `ALIGNMENT`:

    [constants][arena_bytes][scratch_bytes of thread 0][of thread 1]...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dslc.core.dtypes import DType
from dslc.ir.mlir import func, ir, load_dialects
from dslc.ir.plan import Branch, Copy, Loop, Place

from . import support
from .codegen import Codegen
from .emit import Memory, Value
from .link import join
from .types import index_type, memory_type

ALIGNMENT = 128  # bytes: two cache lines, which the processor's prefetcher fetches together

LEAST_IN_A_PART, PARTS_A_THREAD = 3, 3  # kernels, parts

DIALECTS = ["builtin", "arith", "cf", "func", "llvm", "math", "memref", "scf", "vector"]  # of the kernels' bodies, all before their first op is made

LOWERING = (
    "builtin.module(canonicalize,cse,loop-invariant-code-motion,convert-vector-to-scf,convert-scf-to-cf,expand-strided-metadata,lower-affine,"
    "convert-vector-to-llvm,convert-math-to-llvm,convert-arith-to-llvm,convert-index-to-llvm,finalize-memref-to-llvm,"
    "convert-func-to-llvm{use-bare-ptr-memref-call-conv=1},convert-cf-to-llvm,convert-ub-to-llvm,reconcile-unrealized-casts)"
)


@dataclass(frozen=True)
class KernelArguments:
    """What a kernel's emitter is given: the thread, the number of threads, a memref of `scratch_bytes` bytes of its own, its operands."""

    tid: Value
    nt: Value
    scratch: Value
    operands: tuple[Memory, ...]


@dataclass(frozen=True)
class KernelFunction:
    """A kernel to compile. `operands`: dtype and shape of each (operands, then results), given to `emit` as `Memory`; a flat shape is as good.
    `lines`: places in the model file, for errors.

    `emit(arguments)` builds the body for one thread's share. Kernels with one symbol must be equal; they are compiled once.
    """

    symbol: str
    operands: tuple[tuple[DType, tuple[int, ...]], ...]
    emit: Callable[[KernelArguments], None]
    scratch_bytes: int = 0
    lines: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.symbol} ({', '.join(self.lines)})" if self.lines else self.symbol


@dataclass(frozen=True)
class KernelCall:
    """One run of a kernel on the places of its operands. `barrier`: all threads wait for each other behind it. `launch`: the number of the launch
    that ends with this call, in a timed program."""

    symbol: str
    operands: tuple[Place, ...]
    barrier: bool = True
    launch: int | None = None


NativeStep = KernelCall | Copy | Loop | Branch  # steps inside Loop and Branch are NativeSteps too


@dataclass(frozen=True)
class NativeObject:
    """The object, and the scratch bytes that each thread needs."""

    code: bytes
    scratch_bytes: int


def aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def build_object(
    kernels: Sequence[KernelFunction],
    plan: Sequence[NativeStep],
    arena_bytes: int,
    *,
    constant_bytes: int = 0,
    opt_level: int = 2,
    times: Times | None = None,
) -> NativeObject:
    """Compiles the program: the plan, and the kernels in parts of a few. `times`: where a timed program writes its times."""
    unique = {k.symbol: k for k in kernels}
    scratch = aligned(max((k.scratch_bytes for k in unique.values()), default=0))
    layout = Layout(aligned(constant_bytes), aligned(constant_bytes) + aligned(arena_bytes), scratch)
    with Codegen(LOWERING, opt_level) as codegen:
        native = {"dslc_launch": support.TEXT, **({"dslc_stamp": support.STAMP} if times else {})}
        for entry, text in native.items():
            codegen.add_once(text, entry)
        codegen.add_text(plan_text(plan, unique, layout, times), "dslc_plan", [*unique, "dslc_barrier", *native])
        for part in _parts(list(unique.values()), codegen.threads):
            with ir.Context(load_on_create_dialects=[]) as context, ir.Location.unknown():
                load_dialects(context, DIALECTS)
                module = ir.Module.create()
                for kernel in part:
                    with ir.Location.name(kernel.label):
                        _emit_kernel(module, kernel)
                codegen.add(module, part[0].symbol)
        return NativeObject(join(codegen.objects()), scratch)


def _parts(kernels: Sequence[KernelFunction], threads: int) -> list[Sequence[KernelFunction]]:
    """Kernels that are compiled together: each part costs as much as a small kernel, and all wait for the last one."""
    size = max(LEAST_IN_A_PART, -(-len(kernels) // (PARTS_A_THREAD * threads)))
    return [kernels[at : at + size] for at in range(0, len(kernels), size)]


def _emit_kernel(module: ir.Module, kernel: KernelFunction) -> None:
    types = [ir.MemRefType.get(list(shape), memory_type(dtype)) for dtype, shape in kernel.operands]
    bytes_type = ir.MemRefType.get([max(kernel.scratch_bytes, 1)], ir.IntegerType.get_signless(8))
    with ir.InsertionPoint(module.body):
        f = func.FuncOp(kernel.symbol, ir.FunctionType.get([index_type(), index_type(), bytes_type, *types], []))
    flush = ir.ArrayAttr.get([ir.StringAttr.get("denormal-fp-math"), ir.StringAttr.get("preserve-sign,preserve-sign")])
    f.attributes["llvm.passthrough"] = ir.ArrayAttr.get([ir.StringAttr.get("noinline"), flush])
    block = f.add_entry_block()
    with ir.InsertionPoint(block):
        tid, nt, scratch, *refs = block.arguments
        memories = tuple(Memory(ref, dtype) for ref, (dtype, _) in zip(refs, kernel.operands))
        kernel.emit(KernelArguments(tid, nt, scratch, memories))
        func.ReturnOp([])


# the plan as text of the LLVM dialect


@dataclass(frozen=True)
class Layout:
    """Byte offsets behind the arena's pointer: of the plan's arena, of the scratch areas, and from one scratch area to the next."""

    arena: int
    scratch: int
    scratch_bytes: int


@dataclass(frozen=True)
class Times:
    """The slot of a timed program's `TIMES`, and how many launches it has."""

    slot: int
    launches: int


def plan_text(steps: Sequence[NativeStep], kernels: dict[str, KernelFunction], layout: Layout, times: Times | None = None) -> str:
    """`dslc_plan`, with declarations of what it calls."""
    writer = _PlanWriter(layout, times)
    writer.stamp(None)
    writer.steps(steps, ())
    if not steps or not isinstance(steps[-1], (KernelCall, Copy)) or not writer.synchronized:
        writer.barrier()  # the last barrier is the join: every plan has one
    declarations = [f"llvm.func @{k.symbol}(i64, i64, !llvm.ptr{', !llvm.ptr' * len(k.operands)})" for k in kernels.values()]
    head = [
        "llvm.func @dslc_barrier(!llvm.ptr, i32)",
        *(["llvm.func @dslc_stamp(i64, !llvm.ptr, i64, i64)"] if times else []),
        "llvm.func @dslc_plan(%tid: i64, %nt: i64, %arena: !llvm.ptr, %table: !llvm.ptr, %control: !llvm.ptr) {",
        "  %nt32 = llvm.trunc %nt : i64 to i32",
        f"  %size = llvm.mlir.constant({layout.scratch_bytes} : i64) : i64",
        "  %skip = llvm.mul %tid, %size : i64",
        f"  %scratches = llvm.getelementptr %arena[{layout.scratch}] : (!llvm.ptr) -> !llvm.ptr, i8",
        "  %scratch = llvm.getelementptr %scratches[%skip] : (!llvm.ptr, i64) -> !llvm.ptr, i8",
        "  llvm.br ^start",
        "^start:",
    ]
    return "\n".join([*declarations, *head, *writer.lines, "  llvm.return", "}"])


class _PlanWriter:
    """Writes steps; `turns` are the names of the counters of the enclosing loops, outermost first."""

    def __init__(self, layout: Layout, times: Times | None = None) -> None:
        self.layout, self.times = layout, times
        self.lines: list[str] = []
        self.count = 0
        self.synchronized = True  # nothing was done since the last barrier that another thread may not see yet

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def value(self, text: str) -> str:
        name = self.name()
        self.line(f"{name} = {text}")
        return name

    def steps(self, steps: Sequence[NativeStep], turns: tuple[str, ...]) -> None:
        writers = {KernelCall: self.call, Copy: self.copy, Loop: self.loop, Branch: self.branch}
        for step in steps:
            writers[type(step)](step, turns)  # type: ignore[operator]

    def address(self, place: Place, turns: tuple[str, ...]) -> str:
        """The pointer to a place in this turn."""
        if place.space == "slot":
            entry = self.value(f"llvm.getelementptr %table[{8 * place.index}] : (!llvm.ptr) -> !llvm.ptr, i8")
            base = self.value(f"llvm.load {entry} : !llvm.ptr -> !llvm.ptr")
            if place.offset:
                base = self.value(f"llvm.getelementptr {base}[{place.offset}] : (!llvm.ptr) -> !llvm.ptr, i8")
        else:
            offset = place.index + (self.layout.arena if place.space == "arena" else 0)
            base = self.value(f"llvm.getelementptr %arena[{offset}] : (!llvm.ptr) -> !llvm.ptr, i8")
        for turn, stride in zip(turns, place.strides):
            if stride:
                moved = self.value(f"llvm.mul {turn}, {self.constant(stride)} : i64")
                base = self.value(f"llvm.getelementptr {base}[{moved}] : (!llvm.ptr, i64) -> !llvm.ptr, i8")
        return base

    def constant(self, value: int) -> str:
        return self.value(f"llvm.mlir.constant({value} : i64) : i64")

    def barrier(self) -> None:
        self.line("llvm.call @dslc_barrier(%control, %nt32) : (!llvm.ptr, i32) -> ()")
        self.synchronized = True

    def stamp(self, launch: int | None) -> None:
        """In a timed program, the time since the last stamp is this launch's. None begins a run."""
        if self.times is None:
            return
        row, last = self.constant(-1 if launch is None else launch), self.constant(self.times.launches)
        self.line(
            f"llvm.call @dslc_stamp(%tid, {self.address(Place('slot', self.times.slot), ())}, {row}, {last}) : (i64, !llvm.ptr, i64, i64) -> ()"
        )

    def call(self, step: KernelCall, turns: tuple[str, ...]) -> None:
        pointers = [self.address(place, turns) for place in step.operands]
        types = ", ".join(["i64", "i64", "!llvm.ptr"] + ["!llvm.ptr"] * len(pointers))
        self.line(f"llvm.call @{step.symbol}({', '.join(['%tid', '%nt', '%scratch', *pointers])}) : ({types}) -> ()")
        self.synchronized = False
        if step.barrier:
            self.barrier()
        if step.launch is not None:
            self.stamp(step.launch)

    def synchronize(self) -> None:
        if not self.synchronized:
            self.barrier()

    def copy(self, step: Copy, turns: tuple[str, ...]) -> None:
        """Each thread moves a share of whole cache lines; the last one what is left."""
        self.synchronize()
        source, target = self.address(step.source, turns), self.address(step.target, turns)
        lines, width = self.constant(step.bytes // 64), self.constant(64)
        next_thread = self.value(f"llvm.add %tid, {self.constant(1)} : i64")
        borders = []
        for thread in ("%tid", next_thread):
            share = self.value(f"llvm.udiv {self.value(f'llvm.mul {lines}, {thread} : i64')}, %nt : i64")
            borders.append(self.value(f"llvm.mul {share}, {width} : i64"))
        is_last = self.value(f'llvm.icmp "eq" {next_thread}, %nt : i64')
        end = self.value(f"llvm.select {is_last}, {self.constant(step.bytes)}, {borders[1]} : i1, i64")
        length = self.value(f"llvm.sub {end}, {borders[0]} : i64")
        pointers = [self.value(f"llvm.getelementptr {p}[{borders[0]}] : (!llvm.ptr, i64) -> !llvm.ptr, i8") for p in (target, source)]
        self.line(f'"llvm.intr.memcpy"({pointers[0]}, {pointers[1]}, {length}) <{{isVolatile = false}}> : (!llvm.ptr, !llvm.ptr, i64) -> ()')
        self.barrier()
        if self.times:
            self.stamp(self.times.launches)

    def loop(self, step: Loop, turns: tuple[str, ...]) -> None:
        """All threads write the same turn to memory, each before it reads it: no barrier is needed, for the last kernel of a turn ends with one."""
        self.synchronize()
        k = self.count = self.count + 1
        zero, one, trip = self.constant(0), self.constant(1), self.constant(step.trip)
        last = self.constant(step.trip - 1)
        self.line(f"llvm.br ^head{k}({zero} : i64)")
        self.lines.append(f"^head{k}(%i{k}: i64):")
        more = self.value(f'llvm.icmp "slt" %i{k}, {trip} : i64')
        self.line(f"llvm.cond_br {more}, ^body{k}, ^end{k}")
        self.lines.append(f"^body{k}:")
        turn = self.value(f"llvm.sub {last}, %i{k} : i64") if step.backward else f"%i{k}"
        narrow = self.value(f"llvm.trunc {turn} : i64 to i32")
        self.line(f"llvm.store {narrow}, {self.address(step.turn, turns)} : i32, !llvm.ptr")
        self.steps(step.steps, (*turns, turn))  # type: ignore[arg-type]
        self.synchronize()
        following = self.value(f"llvm.add %i{k}, {one} : i64")
        self.line(f"llvm.br ^head{k}({following} : i64)")
        self.lines.append(f"^end{k}:")

    def branch(self, step: Branch, turns: tuple[str, ...]) -> None:
        self.synchronize()
        k = self.count = self.count + 1
        byte = self.value(f"llvm.load {self.address(step.condition, turns)} : !llvm.ptr -> i8")
        zero = self.value("llvm.mlir.constant(0 : i8) : i8")
        taken = self.value(f'llvm.icmp "ne" {byte}, {zero} : i8')
        self.barrier()  # all have read the condition before a step may use its memory
        self.line(f"llvm.cond_br {taken}, ^then{k}, ^else{k}")
        for label, steps in (("then", step.then), ("else", step.otherwise)):
            self.lines.append(f"^{label}{k}:")
            self.steps(steps, turns)  # type: ignore[arg-type]
            self.synchronize()
            self.line(f"llvm.br ^end{k}")
        self.lines.append(f"^end{k}:")
