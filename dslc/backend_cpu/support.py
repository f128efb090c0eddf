"""The native functions that every object carries, as LLVM-dialect text: barrier, the workers' loop, launch.

The control block is 4096 bytes, zero at first, that a pool of threads shares; 32-bit words, each on its own cache line:

    0     arrivals at the barrier          64    generation of the barrier
    128   number of the command            192   workers asleep
    256   the command: plan, arena, table; the core that gave it

A worker lives in `dslc_worker` until a command without a plan. `dslc_launch` gives a command and runs share 0 itself; the plan's last barrier is the
join. A waiting thread polls, pausing, for some 25 us, then yields its core at each poll, for a short spin alone collapses beside a busy process;
only a worker between commands goes to sleep, on a futex. Linux often wakes a worker on the caller's own core and leaves it there for many calls,
though another is idle: a worker that finds itself there keeps off that core. Everybody runs with denormals flushed; `dslc_launch` gives the caller
its mode back.
"""

from __future__ import annotations

ABI = 1  # of the control block and the calling convention; the runtime refuses another

GENERATION, COMMAND, SLEEPERS, PLAN, ARENA, TABLE, CORE = 64, 128, 192, 256, 264, 272, 280  # offsets in the control block

FLUSH_DENORMALS = 0x9FC0  # MXCSR: all exceptions masked, round to nearest, flush to zero, denormals are zero

BARRIER_SPINS = 1000  # polls at a barrier before a thread yields
PARK_SPINS, PARK_YIELDS = 200, 1000  # a worker's polls before it yields at each, and before it sleeps

# All functions but `STAMP`.
TEXT = f"""
llvm.func @sched_yield() -> i32
llvm.func @dslc_abi() -> i64 {{
  %v = llvm.mlir.constant({ABI} : i64) : i64
  llvm.return %v : i64
}}
llvm.func internal @dslc_pause() attributes {{passthrough = ["alwaysinline"]}} {{
  llvm.inline_asm has_side_effects asm_dialect = att "pause", "~{{memory}}" : () -> ()
  llvm.return
}}
// A system call of Linux on x86-64 with a fourth argument of 0.
llvm.func internal @dslc_system(%number: i64, %a: i64, %b: i64, %c: i64) attributes {{passthrough = ["noinline"]}} {{
  %r = llvm.inline_asm has_side_effects asm_dialect = att "xorl %r10d, %r10d\\0Asyscall",
     "={{rax}},{{rax}},{{rdi}},{{rsi}},{{rdx}},~{{rcx}},~{{r11}},~{{r10}},~{{memory}}" %number, %a, %b, %c : (i64, i64, i64, i64) -> i64
  llvm.return
}}
// futex(address, operation, value): operation 128 waits while the value holds, 129 wakes.
llvm.func internal @dslc_futex(%address: !llvm.ptr, %operation: i64, %value: i64) attributes {{passthrough = ["noinline"]}} {{
  %number = llvm.mlir.constant(202 : i64) : i64
  %a = llvm.ptrtoint %address : !llvm.ptr to i64
  llvm.call @dslc_system(%number, %a, %operation, %value) : (i64, i64, i64, i64) -> ()
  llvm.return
}}
// The number of the core that runs this: Linux keeps it in the low 12 bits of TSC_AUX.
llvm.func internal @dslc_core() -> i32 attributes {{passthrough = ["noinline"]}} {{
  %aux = llvm.inline_asm has_side_effects asm_dialect = att "rdtscp", "={{ecx}},~{{eax}},~{{edx}}" : () -> i32
  %low = llvm.mlir.constant(4095 : i32) : i32
  %core = llvm.and %aux, %low : i32
  llvm.return %core : i32
}}
// Leaves a core: the thread may run on all of `cores` (512 bytes) but this one; the kernel refuses an empty set.
llvm.func internal @dslc_leave(%cores: !llvm.ptr, %core: i32) attributes {{passthrough = ["noinline"]}} {{
  %set = llvm.mlir.constant(203 : i64) : i64
  %z = llvm.mlir.constant(0 : i64) : i64
  %one = llvm.mlir.constant(1 : i64) : i64
  %bytes = llvm.mlir.constant(512 : i64) : i64
  %six = llvm.mlir.constant(6 : i64) : i64
  %sixty_three = llvm.mlir.constant(63 : i64) : i64
  %minus = llvm.mlir.constant(-1 : i64) : i64
  %wide = llvm.zext %core : i32 to i64
  %at = llvm.lshr %wide, %six : i64
  %bit = llvm.and %wide, %sixty_three : i64
  %word = llvm.getelementptr %cores[%at] : (!llvm.ptr, i64) -> !llvm.ptr, i64
  %before = llvm.load %word : !llvm.ptr -> i64
  %one_bit = llvm.shl %one, %bit : i64
  %others = llvm.xor %one_bit, %minus : i64
  %without = llvm.and %before, %others : i64
  llvm.store %without, %word : i64, !llvm.ptr
  %address = llvm.ptrtoint %cores : !llvm.ptr to i64
  llvm.call @dslc_system(%set, %z, %bytes, %address) : (i64, i64, i64, i64) -> ()
  llvm.store %before, %word : i64, !llvm.ptr
  llvm.return
}}
llvm.func internal @dslc_get_mode(%place: !llvm.ptr) attributes {{passthrough = ["noinline"]}} {{
  llvm.inline_asm has_side_effects asm_dialect = att "stmxcsr ($0)", "r,~{{memory}}" %place : (!llvm.ptr) -> ()
  llvm.return
}}
llvm.func internal @dslc_set_mode(%place: !llvm.ptr) attributes {{passthrough = ["noinline"]}} {{
  llvm.inline_asm has_side_effects asm_dialect = att "ldmxcsr ($0)", "r,~{{memory}}" %place : (!llvm.ptr) -> ()
  llvm.return
}}
// Every thread adds one; the last resets the counter and advances the generation that the others watch.
llvm.func @dslc_barrier(%p: !llvm.ptr, %nt: i32) attributes {{passthrough = ["noinline"]}} {{
  %c0 = llvm.mlir.constant(0 : i32) : i32
  %c1 = llvm.mlir.constant(1 : i32) : i32
  %spin = llvm.mlir.constant({BARRIER_SPINS} : i32) : i32
  %single = llvm.icmp "eq" %nt, %c1 : i32
  llvm.cond_br %single, ^done, ^enter
^enter:
  %gp = llvm.getelementptr %p[{GENERATION}] : (!llvm.ptr) -> !llvm.ptr, i8
  %g = llvm.load %gp atomic acquire {{alignment = 4 : i64}} : !llvm.ptr -> i32
  %old = llvm.atomicrmw add %p, %c1 acq_rel : !llvm.ptr, i32
  %last = llvm.sub %nt, %c1 : i32
  %is_last = llvm.icmp "eq" %old, %last : i32
  llvm.cond_br %is_last, ^release, ^poll(%c0 : i32)
^release:
  llvm.store %c0, %p atomic monotonic {{alignment = 4 : i64}} : i32, !llvm.ptr
  %g1 = llvm.add %g, %c1 : i32
  llvm.store %g1, %gp atomic release {{alignment = 4 : i64}} : i32, !llvm.ptr
  llvm.br ^done
^poll(%i: i32):
  %now = llvm.load %gp atomic acquire {{alignment = 4 : i64}} : !llvm.ptr -> i32
  %same = llvm.icmp "eq" %now, %g : i32
  llvm.cond_br %same, ^wait, ^done
^wait:
  %short = llvm.icmp "ult" %i, %spin : i32
  llvm.cond_br %short, ^relax, ^cede
^relax:
  %i1 = llvm.add %i, %c1 : i32
  llvm.call @dslc_pause() : () -> ()
  llvm.br ^poll(%i1 : i32)
^cede:
  %ignored = llvm.call @sched_yield() : () -> i32
  llvm.br ^poll(%i : i32)
^done:
  llvm.return
}}
// Wait for the command number to change, run the plan, repeat; a null plan ends it. Each thread meets every command, for it meets its last barrier.
llvm.func @dslc_worker(%tid: i64, %nt: i64, %ctl: !llvm.ptr) {{
  %c0 = llvm.mlir.constant(0 : i32) : i32
  %c1 = llvm.mlir.constant(1 : i32) : i32
  %null = llvm.mlir.zero : !llvm.ptr
  %flush = llvm.mlir.constant({FLUSH_DENORMALS} : i32) : i32
  %spin = llvm.mlir.constant({PARK_SPINS} : i32) : i32
  %limit = llvm.mlir.constant({PARK_SPINS + PARK_YIELDS} : i32) : i32
  %futex_wait = llvm.mlir.constant(128 : i64) : i64
  %mode = llvm.alloca %c1 x i32 : (i32) -> !llvm.ptr
  llvm.store %flush, %mode : i32, !llvm.ptr
  llvm.call @dslc_set_mode(%mode) : (!llvm.ptr) -> ()
  %words = llvm.mlir.constant(64 : i32) : i32
  %cores = llvm.alloca %words x i64 : (i32) -> !llvm.ptr
  %zero_byte = llvm.mlir.constant(0 : i8) : i8
  %bytes = llvm.mlir.constant(512 : i64) : i64
  "llvm.intr.memset"(%cores, %zero_byte, %bytes) <{{isVolatile = false}}> : (!llvm.ptr, i8, i64) -> ()
  %get_cores = llvm.mlir.constant(204 : i64) : i64
  %own = llvm.mlir.constant(0 : i64) : i64
  %cores_address = llvm.ptrtoint %cores : !llvm.ptr to i64
  llvm.call @dslc_system(%get_cores, %own, %bytes, %cores_address) : (i64, i64, i64, i64) -> ()
  %command = llvm.getelementptr %ctl[{COMMAND}] : (!llvm.ptr) -> !llvm.ptr, i8
  %sleepers = llvm.getelementptr %ctl[{SLEEPERS}] : (!llvm.ptr) -> !llvm.ptr, i8
  %fp = llvm.getelementptr %ctl[{PLAN}] : (!llvm.ptr) -> !llvm.ptr, i8
  %ap = llvm.getelementptr %ctl[{ARENA}] : (!llvm.ptr) -> !llvm.ptr, i8
  %tp = llvm.getelementptr %ctl[{TABLE}] : (!llvm.ptr) -> !llvm.ptr, i8
  llvm.br ^poll(%c0, %c0 : i32, i32)
^poll(%seen: i32, %i: i32):
  %now = llvm.load %command atomic acquire {{alignment = 4 : i64}} : !llvm.ptr -> i32
  %same = llvm.icmp "eq" %now, %seen : i32
  llvm.cond_br %same, ^wait, ^go
^wait:
  %i1 = llvm.add %i, %c1 : i32
  %short = llvm.icmp "ult" %i, %spin : i32
  llvm.cond_br %short, ^relax, ^yield
^relax:
  llvm.call @dslc_pause() : () -> ()
  llvm.br ^poll(%seen, %i1 : i32, i32)
^yield:
  %few = llvm.icmp "ult" %i, %limit : i32
  llvm.cond_br %few, ^cede, ^sleep
^cede:
  %ignored = llvm.call @sched_yield() : () -> i32
  llvm.br ^poll(%seen, %i1 : i32, i32)
^sleep:
  %0 = llvm.atomicrmw add %sleepers, %c1 seq_cst : !llvm.ptr, i32
  %seen64 = llvm.zext %seen : i32 to i64
  llvm.call @dslc_futex(%command, %futex_wait, %seen64) : (!llvm.ptr, i64, i64) -> ()
  %1 = llvm.atomicrmw sub %sleepers, %c1 seq_cst : !llvm.ptr, i32
  llvm.br ^poll(%seen, %i : i32, i32)
^go:
  %f = llvm.load %fp : !llvm.ptr -> !llvm.ptr
  %stop = llvm.icmp "eq" %f, %null : !llvm.ptr
  llvm.cond_br %stop, ^end, ^place
^place:
  %cp = llvm.getelementptr %ctl[{CORE}] : (!llvm.ptr) -> !llvm.ptr, i8
  %callers = llvm.load %cp : !llvm.ptr -> i32
  %here = llvm.call @dslc_core() : () -> i32
  %together = llvm.icmp "eq" %callers, %here : i32
  llvm.cond_br %together, ^away, ^run
^away:
  llvm.call @dslc_leave(%cores, %here) : (!llvm.ptr, i32) -> ()
  llvm.br ^run
^run:
  %arena = llvm.load %ap : !llvm.ptr -> !llvm.ptr
  %table = llvm.load %tp : !llvm.ptr -> !llvm.ptr
  llvm.call %f(%tid, %nt, %arena, %table, %ctl) : !llvm.ptr, (i64, i64, !llvm.ptr, !llvm.ptr, !llvm.ptr) -> ()
  llvm.br ^poll(%now, %c0 : i32, i32)
^end:
  llvm.return
}}
llvm.func @dslc_launch(%f: !llvm.ptr, %nt: i64, %arena: !llvm.ptr, %table: !llvm.ptr, %ctl: !llvm.ptr) {{
  %c1 = llvm.mlir.constant(1 : i32) : i32
  %c0 = llvm.mlir.constant(0 : i32) : i32
  %z = llvm.mlir.constant(0 : i64) : i64
  %one = llvm.mlir.constant(1 : i64) : i64
  %null = llvm.mlir.zero : !llvm.ptr
  %flush = llvm.mlir.constant({FLUSH_DENORMALS} : i32) : i32
  %futex_wake = llvm.mlir.constant(129 : i64) : i64
  %all = llvm.mlir.constant(1000 : i64) : i64
  %before = llvm.alloca %c1 x i32 : (i32) -> !llvm.ptr
  %during = llvm.alloca %c1 x i32 : (i32) -> !llvm.ptr
  llvm.call @dslc_get_mode(%before) : (!llvm.ptr) -> ()
  llvm.store %flush, %during : i32, !llvm.ptr
  llvm.call @dslc_set_mode(%during) : (!llvm.ptr) -> ()
  %alone = llvm.icmp "eq" %nt, %one : i64
  llvm.cond_br %alone, ^run, ^publish
^publish:
  %command = llvm.getelementptr %ctl[{COMMAND}] : (!llvm.ptr) -> !llvm.ptr, i8
  %sleepers = llvm.getelementptr %ctl[{SLEEPERS}] : (!llvm.ptr) -> !llvm.ptr, i8
  %fp = llvm.getelementptr %ctl[{PLAN}] : (!llvm.ptr) -> !llvm.ptr, i8
  %ap = llvm.getelementptr %ctl[{ARENA}] : (!llvm.ptr) -> !llvm.ptr, i8
  %tp = llvm.getelementptr %ctl[{TABLE}] : (!llvm.ptr) -> !llvm.ptr, i8
  llvm.store %f, %fp : !llvm.ptr, !llvm.ptr
  llvm.store %arena, %ap : !llvm.ptr, !llvm.ptr
  llvm.store %table, %tp : !llvm.ptr, !llvm.ptr
  %cp = llvm.getelementptr %ctl[{CORE}] : (!llvm.ptr) -> !llvm.ptr, i8
  %core = llvm.call @dslc_core() : () -> i32
  llvm.store %core, %cp : i32, !llvm.ptr
  %0 = llvm.atomicrmw add %command, %c1 seq_cst : !llvm.ptr, i32
  %asleep = llvm.load %sleepers atomic seq_cst {{alignment = 4 : i64}} : !llvm.ptr -> i32
  %any = llvm.icmp "ne" %asleep, %c0 : i32
  llvm.cond_br %any, ^wake, ^run
^wake:
  llvm.call @dslc_futex(%command, %futex_wake, %all) : (!llvm.ptr, i64, i64) -> ()
  llvm.br ^run
^run:
  %stop = llvm.icmp "eq" %f, %null : !llvm.ptr
  llvm.cond_br %stop, ^end, ^call
^call:
  llvm.call %f(%z, %nt, %arena, %table, %ctl) : !llvm.ptr, (i64, i64, !llvm.ptr, !llvm.ptr, !llvm.ptr) -> ()
  llvm.br ^end
^end:
  llvm.call @dslc_set_mode(%before) : (!llvm.ptr) -> ()
  llvm.return
}}
"""


# stamp(thread, times, launch, launches): thread 0 adds what passed since the last stamp to the launch's time and counts the run; -1 begins anew.
# `times` is laid out as `core.executable.TIMES` says.
STAMP = """
llvm.func @dslc_stamp(%tid: i64, %times: !llvm.ptr, %launch: i64, %launches: i64) attributes {passthrough = ["noinline"]} {
  %zero = llvm.mlir.constant(0 : i64) : i64
  %one = llvm.mlir.constant(1 : i64) : i64
  %width = llvm.mlir.constant(24 : i64) : i64
  %mine = llvm.icmp "eq" %tid, %zero : i64
  llvm.cond_br %mine, ^take, ^end
^take:
  %now = llvm.call_intrinsic "llvm.readcyclecounter"() : () -> i64
  %began = llvm.getelementptr %times[8] : (!llvm.ptr) -> !llvm.ptr, i8
  %rows = llvm.getelementptr %times[16] : (!llvm.ptr) -> !llvm.ptr, i8
  %begins = llvm.icmp "slt" %launch, %zero : i64
  llvm.cond_br %begins, ^begin, ^add
^begin:
  %count = llvm.add %launches, %one : i64
  %bytes = llvm.mul %count, %width : i64
  %nothing = llvm.mlir.constant(0 : i8) : i8
  "llvm.intr.memset"(%rows, %nothing, %bytes) <{isVolatile = false}> : (!llvm.ptr, i8, i64) -> ()
  llvm.store %now, %times : i64, !llvm.ptr
  llvm.store %now, %began : i64, !llvm.ptr
  llvm.br ^end
^add:
  %skip = llvm.mul %launch, %width : i64
  %row = llvm.getelementptr %rows[%skip] : (!llvm.ptr, i64) -> !llvm.ptr, i8
  %runs = llvm.getelementptr %row[8] : (!llvm.ptr) -> !llvm.ptr, i8
  %ended = llvm.getelementptr %row[16] : (!llvm.ptr) -> !llvm.ptr, i8
  %last = llvm.load %times : !llvm.ptr -> i64
  %passed = llvm.sub %now, %last : i64
  %before = llvm.load %row : !llvm.ptr -> i64
  %sum = llvm.add %before, %passed : i64
  llvm.store %sum, %row : i64, !llvm.ptr
  %ran = llvm.load %runs : !llvm.ptr -> i64
  %more = llvm.add %ran, %one : i64
  llvm.store %more, %runs : i64, !llvm.ptr
  llvm.store %now, %times : i64, !llvm.ptr
  %is_first = llvm.icmp "eq" %ran, %zero : i64
  llvm.cond_br %is_first, ^first, ^end
^first:
  llvm.store %now, %ended : i64, !llvm.ptr
  llvm.br ^end
^end:
  llvm.return
}
"""
