// The order of launches (griddepcontrol, sm_90): a kernel may be started while the ones before still run, so that its start costs nothing.
#pragma once

#ifndef DSLC_EMULATED

// The next kernel may be started as soon as all blocks of this one have begun; it waits by itself for what they write.
__device__ __forceinline__ void let_next_launch_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
// All launches before this one have ended and their writes are seen. What stands before it touches nothing in global memory, but for prefetches.
__device__ __forceinline__ void wait_for_launches_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// Asks for the line of an address in the second cache. Always allowed: what is written later is seen there.
__device__ __forceinline__ void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" :: "l"(global)); }

#else

inline void let_next_launch_start() {}
EMULATOR_CALLED inline void wait_for_launches_before() {
    emulator::Inside guard;
    emulator::launches_waited(EMULATOR_CODE);
}
EMULATOR_CALLED inline void prefetch(const void* global) {
    emulator::Inside guard;
    emulator::within(global, EMULATOR_CODE);
}

#endif
