// What the checking build is told besides the accesses that its instrumented code makes: accesses that the emulator makes for a thread, and what orders
// those of different threads. The bodies are in checks.cpp; the fast build has none.
#pragma once

namespace emulator {

// Memory that a launch may touch, besides its own: in ascending order, none overlaps another. `steady`: no launch of the program writes it. `known`: of
// each byte whether something has written it, none where all are. dslc/runtime/drivers/emulator.py has the same layout.
struct Buffer {
    char* from;
    size_t size;
    const char* name;
    int written, steady;
    bool* known;
};

// A `__shared__` variable in the checking build (`emulated.py` writes it so): behind it lies memory that is nobody's.
template <typename T> struct Guarded {
    T value;
    char behind[512];
};

#ifdef EMULATOR_CHECKED
constexpr bool checked = true;
#define EMULATOR_HOOK(declaration) declaration;
#else
constexpr bool checked = false;
#define EMULATOR_HOOK(declaration) inline declaration {}
#endif

EMULATOR_HOOK(void begin_block())
EMULATOR_HOOK(void end_block())
EMULATOR_HOOK(void end_launch(Block& b))

// `code`: where a kernel calls the function that does it, which is EMULATOR_CODE in an EMULATOR_CALLED one.
#define EMULATOR_CALLED __attribute__((noinline))
#define EMULATOR_UNSEEN __attribute__((no_sanitize("thread")))  // of a function that computes for the emulator: faster
#define EMULATOR_CODE __builtin_return_address(0)
EMULATOR_HOOK(void reads(const void* place, size_t size, void* code))
EMULATOR_HOOK(void misaligned(const void* place, size_t size))  // an access by the running thread at no multiple of its size
EMULATOR_HOOK(void declared(const void* variable, size_t size, const char* name))  // in shared memory, by the kernel that runs
// By the running thread, itself or as the copy engine; until it has landed nobody may touch the place.
EMULATOR_HOOK(void copy_issued(void* to, size_t size, void* code))
EMULATOR_HOOK(void tile_reads(const void* place, size_t size, void* code))
EMULATOR_HOOK(void tile_issued(void* to, size_t size, void* code))
EMULATOR_HOOK(void copy_landed(void* to, size_t size))
EMULATOR_HOOK(void tile_landed(void* to, size_t size, const void* mbarrier))

// The launches before have ended: of what they leave nothing may be touched earlier. `within`: an address that is no access of, but must lie in a buffer.
EMULATOR_HOOK(void launches_waited(void* code))
EMULATOR_HOOK(void within(const void* place, void* code))

// All threads of the block, or lanes of a warp, have met: what each did before comes before what any does from here on.
EMULATOR_HOOK(void block_met())
EMULATOR_HOOK(void lanes_met(int first, unsigned lanes))
// Order through an mbarrier or a named barrier: those that wait for its phase come behind those that arrived in it.
EMULATOR_HOOK(void arrived(const void* barrier))
EMULATOR_HOOK(void phase_ended(const void* barrier))
EMULATOR_HOOK(void waited(const void* barrier))

// The copy engine and the products of a warpgroup see what a thread has stored to shared memory, mbarriers included, behind a fence of that thread.
EMULATOR_HOOK(void proxy_fence())
EMULATOR_HOOK(void barrier_made(const void* mbarrier))
EMULATOR_HOOK(void barrier_used(const void* mbarrier, const char* file, int line))

// A product of a warpgroup reads shared memory from when it is issued until its warpgroup has waited for it.
EMULATOR_HOOK(void product_issued(int warpgroup))
EMULATOR_HOOK(void product_reads(int warpgroup, const void* place, size_t size, void* code))
EMULATOR_HOOK(void product_waited(int warpgroup, int products_before))

#undef EMULATOR_HOOK

template <typename T> inline T& variable(Guarded<T>& guarded, const char* name) {
    declared(&guarded.value, sizeof(T), name);
    return guarded.value;
}

// While one lives, the running thread is in the emulator: its accesses are not the kernel's.
struct Inside {
    Fiber* self;
    Inside();
    ~Inside();
};

}  // namespace emulator
