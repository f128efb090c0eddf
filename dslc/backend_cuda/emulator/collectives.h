// Barriers, shuffles, votes, matches and warp reductions. All threads that take part must call the same operation on the same line with the same mask.
#pragma once
#include "fiber.h"

namespace emulator {

#define EMULATOR_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline int lane() { return fiber->rank & 31; }

// All threads of the block arrive, then all go on. Arriving at different lines, or after some thread has exited, is divergence.
int barrier(int vote, const char* file, int line);

// The lanes of `mask` meet; the last one runs `all(arguments by lane, mask)` for everybody. A lane outside its own mask, or one that has exited, is an error.
template <typename A, typename All> inline void collective(unsigned mask, int operation, A* argument, All all, const char* file, int line) {
    Inside guard;
    Fiber* warp = &block->fibers[fiber->rank & ~31];
    int lanes = block->threads - (fiber->rank & ~31);
    if (lanes > 32) lanes = 32;
    fiber->file = file, fiber->line = line;
    if (!(mask >> lane() & 1)) fail(file, line, "wrong mask: lane %d calls with mask %08x, which leaves it out", lane(), mask);
    if (lanes < 32 && mask >> lanes && mask != ~0u) fail(file, line, "wrong mask: %08x names lanes past the warp's %d", mask, lanes);
    fiber->state = State::at_collective, fiber->mask = mask, fiber->operation = operation, fiber->argument = argument;
    A* arguments[32] = {};
    bool complete = true;
    unsigned met = 0;
    for (int i = 0; i < lanes; i++) {
        Fiber& f = warp[i];
        if (!(mask >> i & 1)) continue;
        if (f.state == State::exited) fail(file, line, "wrong mask: %08x names lane %d, which has exited", mask, i);
        if (f.state != State::at_collective) { complete = false; continue; }
        if (f.mask != mask) fail(file, line, "wrong mask: lane %d calls with %08x, lane %d with %08x", lane(), mask, i, f.mask);
        if (f.operation != operation || f.line != line) fail(file, line, "divergent warp: lane %d is at line %d", i, f.line);
        arguments[i] = static_cast<A*>(f.argument);
        met |= 1u << i;
    }
    if (complete) {
        all(arguments, mask);
        lanes_met(fiber->rank & ~31, met);
        std::vector<Fiber*> released;
        for (int i = 0; i < lanes; i++)
            if (arguments[i]) released.push_back(&warp[i]);
        make_ready(released);
    }
    yield();
}

// Each lane gives a value and names the lane it reads (-1: its own). Reading a lane outside the mask is undefined in CUDA and an error here.
template <typename T> inline T exchange(unsigned mask, T value, int source, int operation, const char* file, int line) {
    struct Argument { T in, out; int source; } mine{value, value, source};
    collective(mask, operation, &mine, [=](Argument** a, unsigned) {
        for (int i = 0; i < 32; i++) {
            if (!a[i] || a[i]->source < 0) continue;
            if (!a[a[i]->source]) fail(file, line, "wrong mask: lane %d reads lane %d, which takes no part", i, a[i]->source);
            a[i]->out = a[a[i]->source]->in;
        }
    }, file, line);
    return mine.out;
}

// Every lane of the mask gets combine(values by lane, present lanes).
template <typename R, typename T, typename Combine> inline R gather(unsigned mask, T value, int operation, Combine combine, const char* file, int line) {
    struct Argument { T in; R out; } mine{value, R()};
    collective(mask, operation, &mine, [=](Argument** a, unsigned) {
        T values[32] = {};
        unsigned present = 0;
        for (int i = 0; i < 32; i++)
            if (a[i]) values[i] = a[i]->in, present |= 1u << i;
        for (int i = 0; i < 32; i++)
            if (a[i]) a[i]->out = combine(values, present, i);
    }, file, line);
    return mine.out;
}

template <typename T, typename Fold> inline T reduce(unsigned mask, T value, int operation, Fold fold, const char* file, int line) {
    return gather<T>(mask, value, operation, [=](const T* v, unsigned present, int) {
        int i = __builtin_ctz(present);
        T sum = v[i];
        while (++i < 32)
            if (present >> i & 1) sum = fold(sum, v[i]);
        return sum;
    }, file, line);
}

}  // namespace emulator

inline void __syncthreads(EMULATOR_HERE) { emulator::barrier(0, file, line); }
inline int __syncthreads_count(int p, EMULATOR_HERE) { return emulator::barrier(p != 0, file, line); }
inline int __syncthreads_or(int p, EMULATOR_HERE) { return emulator::barrier(p != 0, file, line) != 0; }
inline int __syncthreads_and(int p, EMULATOR_HERE) { return emulator::barrier(p == 0, file, line) == 0; }
inline void __syncwarp(unsigned mask = ~0u, EMULATOR_HERE) { emulator::exchange(mask, 0, -1, 1, file, line); }
template <typename T> inline T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMULATOR_HERE) {
    return emulator::exchange(mask, v, (emulator::lane() & ~(width - 1)) | (source & (width - 1)), 2, file, line);
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EMULATOR_HERE) {
    int source = emulator::lane() ^ bits, last = emulator::lane() | (width - 1);
    return emulator::exchange(mask, v, source <= last ? source : -1, 3, file, line);
}
template <typename T> inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, EMULATOR_HERE) {
    unsigned lane = emulator::lane();
    return emulator::exchange(mask, v, (lane & (width - 1)) + by < (unsigned)width ? int(lane + by) : -1, 4, file, line);
}
template <typename T> inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, EMULATOR_HERE) {
    unsigned lane = emulator::lane();
    return emulator::exchange(mask, v, (lane & (width - 1)) >= by ? int(lane - by) : -1, 5, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int p, EMULATOR_HERE) {
    return emulator::gather<unsigned>(mask, p, 6, [](const int* v, unsigned, int) {
        unsigned bits = 0;
        for (int i = 0; i < 32; i++) bits |= unsigned(v[i] != 0) << i;
        return bits;
    }, file, line);
}
inline int __any_sync(unsigned mask, int p, EMULATOR_HERE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, EMULATOR_HERE) { return __ballot_sync(mask, !p, file, line) == 0; }
inline unsigned __activemask() { return 1u << emulator::lane(); }  // a legal answer: no two lanes need be converged
template <typename T> inline unsigned __match_any_sync(unsigned mask, T value, EMULATOR_HERE) {
    return emulator::gather<unsigned>(mask, value, 7, [](const T* v, unsigned present, int lane) {
        unsigned bits = 0;
        for (int i = 0; i < 32; i++) bits |= unsigned((present >> i & 1) && !memcmp(&v[i], &v[lane], sizeof(T))) << i;
        return bits;
    }, file, line);
}
template <typename T> inline T __reduce_add_sync(unsigned m, T v, EMULATOR_HERE) { return emulator::reduce(m, v, 8, [](T a, T b) { return T(unsigned(a) + unsigned(b)); }, file, line); }
template <typename T> inline T __reduce_min_sync(unsigned m, T v, EMULATOR_HERE) { return emulator::reduce(m, v, 9, [](T a, T b) { return a < b ? a : b; }, file, line); }
template <typename T> inline T __reduce_max_sync(unsigned m, T v, EMULATOR_HERE) { return emulator::reduce(m, v, 10, [](T a, T b) { return a > b ? a : b; }, file, line); }
inline unsigned __reduce_and_sync(unsigned m, unsigned v, EMULATOR_HERE) { return emulator::reduce(m, v, 11, [](unsigned a, unsigned b) { return a & b; }, file, line); }
inline unsigned __reduce_or_sync(unsigned m, unsigned v, EMULATOR_HERE) { return emulator::reduce(m, v, 12, [](unsigned a, unsigned b) { return a | b; }, file, line); }
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, EMULATOR_HERE) { return emulator::reduce(m, v, 13, [](unsigned a, unsigned b) { return a ^ b; }, file, line); }
