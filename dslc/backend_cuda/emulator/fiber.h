// One fiber per CUDA thread. The fibers of a block run one at a time on one OS thread and switch only where CUDA threads can wait for each other.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <vector>

namespace emulator {

// What goes back to the host when a kernel does what CUDA leaves undefined. dslc/runtime/drivers/emulator.py has the same layout.
struct Fault {
    int failed, line, thread;
    unsigned block[3];
    char file[256], message[2048];
    uint64_t places[2];  // where in the module's code, of a bad access: the access, and the earlier one that it meets
};

enum class State : uint8_t { runnable, at_barrier, at_collective, at_mbarrier, at_named_barrier, exited };
enum Order { forward, reverse, shuffled };

// A copy that was issued and not yet waited for; no source means zeros. `group`: how many groups the thread had closed before.
struct Copy {
    void* to;
    const void* from;
    int size, group;
};

// Matrix products of a warpgroup that were issued and not yet waited for. An accumulator in flight is kept here; what its threads see is NaNs.
struct Warpgroup {
    struct Accumulator { float* of_thread[128]; std::vector<float> values; int pending; };
    struct Product { float* accumulator; int group; std::function<void(float*)> run; };
    std::map<float*, Accumulator> accumulators;
    std::deque<Product> products;
    int groups;
    bool fenced;  // since its threads could last touch registers that products use
    int registers;  // of a thread, where it has given some back or taken some, else 0
};

struct Fiber {
    void* stack_pointer;
    uint3 index;
    int rank;  // in the block, x fastest
    State state;
    const char* file;  // where it waits
    int line;
    unsigned mask;  // of the collective it waits at: its lanes, which operation, its argument
    int operation;
    void* argument;
    std::vector<Copy> copies;
    int groups;
    int inside;  // calls of the emulator that it is in
};

struct Block;
struct Checker;  // what the checking build knows of a block's accesses (checks.cpp)
}  // namespace emulator
#include "checks.h"
namespace emulator {

// This module's thread-local storage on this OS thread: every `__shared__` variable, and `block` and `fiber`.
struct SharedRange {
    void* from;
    size_t size;
};

struct Block {
    dim3 grid, shape;
    uint3 index;
    int threads, live, waiting;  // `waiting`: how many stand at __syncthreads
    unsigned phase;              // barriers passed; `votes` of __syncthreads_count are kept by its parity
    int votes[2];
    std::vector<Fiber> fibers;
    std::vector<Fiber*> ready;
    size_t next_ready;
    Order order;
    uint64_t random;
    void* launcher;  // the stack of the OS thread
    void (*body)(void**);
    void** parameters;
    Fault* fault;
    char* stacks = nullptr;
    size_t stacks_size = 0;
    char* dynamic_shared = nullptr;
    size_t dynamic_size = 0;
    SharedRange shared{};
    const Buffer* buffers = nullptr;
    int buffer_count = 0;
    Checker* checker = nullptr;
    std::deque<std::function<void()>> bulk_copies;  // issued, not yet done
    std::vector<Warpgroup> warpgroups;
    int named_waiting[16];  // warps that have arrived at each named barrier, in threads
    int named_threads[16];  // how many meet there, as the first of them said
    ~Block();
};

// The only thread-local variables that are no shared memory: `run_grid` fills the rest of the module's thread-local storage with NaNs.
#define EMULATOR_HIDDEN __attribute__((visibility("hidden")))
extern constinit thread_local EMULATOR_HIDDEN Block* block;
extern constinit thread_local EMULATOR_HIDDEN Fiber* fiber;
#undef EMULATOR_HIDDEN

// No access may be moved over the borders of what is inside.
inline Inside::Inside() : self(checked ? fiber : nullptr) {
    if (checked) self->inside++;
    asm volatile("" ::: "memory");
}
inline Inside::~Inside() {
    asm volatile("" ::: "memory");
    if (checked) self->inside--;
}

// The bodies of these are in blocks.cpp, which is compiled once for all kernels.

// Ends the block with a report about the running thread at its line; the other fibers are dropped where they stand.
[[noreturn]] void fail(const char* file, int line, const char* format, ...);

// Fibers that run again, in the order asked for.
void make_ready(std::vector<Fiber*>& released);

// Runs the next runnable fiber; returns when this one is runnable again and its turn has come. Bulk copies land once nothing else can run.
void yield();

}  // namespace emulator
