// Where threads of several warps meet: collectives of a warpgroup, named barriers, mbarriers.
#pragma once
#include "collectives.h"

namespace emulator {

// The 128 threads of a warpgroup meet on one line; the last one runs `all(arguments by thread)` for everybody.
template <typename A, typename All> inline void warpgroup(int operation, A* argument, All all, const char* file, int line) {
    Inside guard;
    Fiber* first = &block->fibers[fiber->rank & ~127];
    fiber->file = file, fiber->line = line;
    if ((fiber->rank & ~127) + 128 > block->threads) fail(file, line, "a warpgroup of less than 128 threads");
    fiber->state = State::at_collective, fiber->operation = operation, fiber->argument = argument, fiber->mask = 0;
    A* arguments[128];
    bool complete = true;
    for (int i = 0; i < 128; i++) {
        Fiber& f = first[i];
        if (f.state == State::exited) fail(file, line, "divergent warpgroup: thread %d has exited", f.rank);
        if (f.state != State::at_collective) { complete = false; continue; }
        if (f.operation != operation || f.line != line) fail(file, line, "divergent warpgroup: thread %d is at line %d", f.rank, f.line);
        arguments[i] = static_cast<A*>(f.argument);
    }
    if (complete) {
        all(arguments);
        for (int i = 0; i < 128; i += 32) lanes_met((fiber->rank & ~127) + i, ~0u);  // its warps are not ordered among each other
        std::vector<Fiber*> released;
        for (int i = 0; i < 128; i++) released.push_back(&first[i]);
        make_ready(released);
    }
    yield();
}

// `threads` threads meet at a barrier of that number; those that only arrive go on.
void named_barrier(int number, int threads, bool waits, const char* file, int line);

// The warpgroup gives registers back down to so many a thread, or takes up to so many: together they must find what they take.
void set_registers(int count, bool more, const char* file, int line);

// The 8 bytes of an mbarrier: arrivals that a phase needs and still lacks, bytes that it still lacks.
struct Mbarrier {
    uint32_t phase : 1, count : 15, lacking : 15, live : 1;
    int32_t bytes;
};
constexpr unsigned mbarrier_limit = 0x7fff;  // shared memory is poisoned with ones: a count of all ones was never set

inline Mbarrier& mbarrier_at(unsigned long long* place, const char* file, int line) {
    Mbarrier& b = *reinterpret_cast<Mbarrier*>(place);
    if (b.count == mbarrier_limit) fail(file, line, "an mbarrier that was not initialized");
    return b;
}

// Ends the phase where nothing lacks, and wakes who waits for that.
void complete(unsigned long long* place);

}  // namespace emulator
