// Races on shared memory: bodies for the calls that -fsanitize=thread makes at every access (ThreadSanitizer's own library is not linked).
//
// Two accesses of a byte by different threads, one of them a write, need a barrier between them, or, within a warp, a collective; atomics may meet
// atomics. Of the reads of a byte the last two are kept. Order by asynchronous copies and mbarriers is not known.
#include <dlfcn.h>

#include "cuda.h"

namespace emulator {
namespace {

struct Access {
    int thread;  // rank + 1, 0 for none
    unsigned barriers, meetings;
    bool atomic;
    void* place;  // in the code
};
struct Cell { Access write, reads[2]; };

bool ordered(const Access& before, const Access& now) {
    if (!before.thread || before.thread == now.thread || before.barriers != now.barriers) return true;
    return (before.thread - 1) / 32 == (now.thread - 1) / 32 && before.meetings != now.meetings;
}

uint64_t offset(void* place) {
    Dl_info found;
    return dladdr(place, &found) ? (char*)place - (char*)found.dli_fbase - 1 : 0;
}

[[noreturn]] void race(const Access& before, const Access& now, bool wrote, bool writes, size_t byte) {
    block->fault->places[0] = offset(now.place), block->fault->places[1] = offset(before.place);
    fail("", 0, "race on byte %zu of shared memory: %s by thread %d and %s by thread %d with no barrier between them", byte, wrote ? "a write" : "a read",
         before.thread - 1, writes ? "a write" : "a read", now.thread - 1);
}

void access(void* address, size_t size, bool writes, bool atomic, void* place) {
    Block* b = block;
    if (!b || b == (Block*)-1 || !fiber || b->checking) return;  // -1: while a launcher fills shared memory
    char* at = (char*)address;
    if (at == (char*)&block || at == (char*)&fiber) return;
    size_t in_static = at - (char*)b->shared.from, in_dynamic = at - b->dynamic_shared, first;
    if (in_static < b->shared.size) first = in_static;
    else if (in_dynamic < b->dynamic_size) first = b->shared.size + in_dynamic;
    else return;
    b->checking = true;
    if (!b->shadow) b->shadow = calloc(b->shared.size + b->dynamic_size, sizeof(Cell));
    Access now{fiber->rank + 1, b->barriers, b->meetings[fiber->rank / 32], atomic, place};
    for (size_t k = first; k < first + size; k++) {
        Cell& cell = ((Cell*)b->shadow)[k];
        if (!ordered(cell.write, now) && !(atomic && cell.write.atomic)) race(cell.write, now, true, writes, k);
        for (Access& read : cell.reads)
            if (writes && !ordered(read, now) && !(atomic && read.atomic)) race(read, now, false, true, k);
        if (writes) cell.write = now;
        if (!writes || atomic) {
            if (cell.reads[0].thread != now.thread) cell.reads[1] = cell.reads[0];
            cell.reads[0] = now;
        }
    }
    b->checking = false;
}

}  // namespace
}  // namespace emulator

#define HERE __builtin_return_address(0)
#define PLAIN(n)                                                                                                \
    void __tsan_read##n(void* p) { emulator::access(p, n, false, false, HERE); }                                \
    void __tsan_write##n(void* p) { emulator::access(p, n, true, false, HERE); }                                \
    void __tsan_unaligned_read##n(void* p) { emulator::access(p, n, false, false, HERE); }                      \
    void __tsan_unaligned_write##n(void* p) { emulator::access(p, n, true, false, HERE); }
#define ATOMIC(bits, T)                                                                                         \
    T __tsan_atomic##bits##_load(const volatile T* p, int) {                                                    \
        emulator::access((void*)p, bits / 8, false, true, HERE);                                                \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                            \
    }                                                                                                           \
    void __tsan_atomic##bits##_store(volatile T* p, T x, int) {                                                 \
        emulator::access((void*)p, bits / 8, true, true, HERE);                                                 \
        __atomic_store_n(p, x, __ATOMIC_SEQ_CST);                                                               \
    }                                                                                                           \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T x, int) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* old, T x, int, int) {                   \
        emulator::access((void*)p, bits / 8, true, true, HERE);                                                 \
        return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
    }
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long n) { emulator::access(p, n, false, false, HERE); }
void __tsan_write_range(void* p, unsigned long n) { emulator::access(p, n, true, false, HERE); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
PLAIN(1) PLAIN(2) PLAIN(4) PLAIN(8) PLAIN(16)
ATOMIC(8, unsigned char) ATOMIC(16, unsigned short) ATOMIC(32, unsigned) ATOMIC(64, unsigned long)
}
