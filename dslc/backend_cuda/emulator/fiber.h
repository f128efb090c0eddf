// One fiber per CUDA thread. The fibers of a block run one at a time on one OS thread and switch only where CUDA threads can wait for each other.
#pragma once
#include <sys/mman.h>

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
    ~Block() {
        end_launch(*this);
        if (stacks) munmap(stacks, stacks_size);
        free(dynamic_shared);
    }
};

// The only thread-local variables that are no shared memory: shared.h fills the rest of the module's thread-local storage with NaNs.
inline thread_local Block* block = nullptr;
inline thread_local Fiber* fiber = nullptr;

inline Inside::Inside() : self(checked ? fiber : nullptr) {
    if (checked) self->inside++;
}
inline Inside::~Inside() {
    if (checked) self->inside--;
}

constexpr size_t stack_size = 64 << 10;

// Pushes the registers that a call keeps, exchanges stacks, pops the other fiber's registers.
extern "C" void emulator_switch(void** save, void* to);
asm(R"(.pushsection .text
.local emulator_switch
.type emulator_switch,@function
emulator_switch:
 pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp,(%rdi); movq %rsi,%rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret
.popsection)");

// Ends the block with a report about the running thread at its line; the other fibers are dropped where they stand.
[[noreturn]] inline void fail(const char* file, int line, const char* format, ...) {
    Inside guard;
    Fault& fault = *block->fault;
    fault.failed = 1;
    fault.line = line;
    fault.thread = fiber->rank;
    fault.block[0] = block->index.x, fault.block[1] = block->index.y, fault.block[2] = block->index.z;
    snprintf(fault.file, sizeof fault.file, "%s", file ? file : "");
    va_list values;
    va_start(values, format);
    int used = vsnprintf(fault.message, sizeof fault.message, format, values);
    va_end(values);
    static const char* const names[] = {"runnable", "at __syncthreads", "at a warp collective", "at an mbarrier", "at a named barrier", "exited"};
    int shown = 0;
    const Fiber* last = nullptr;
    for (auto& f : block->fibers) {  // one line for each run of threads in the same place
        if (last && last->state == f.state && last->line == f.line) continue;
        last = &f;
        if (used < 1800 && shown++ < 8)
            used += snprintf(fault.message + used, sizeof fault.message - used, "\nfrom thread %d on: %s, line %d", f.rank, names[(int)f.state], f.line);
    }
    void* dropped;
    emulator_switch(&dropped, block->launcher);
    abort();
}

inline void make_ready(std::vector<Fiber*>& released) {
    size_t n = released.size();
    auto push = [](Fiber* f) { f->state = State::runnable, block->ready.push_back(f); };
    if (block->order == reverse) {
        while (n) push(released[--n]);
        return;
    }
    for (size_t i = n; block->order == shuffled && i > 1; i--) {
        block->random = block->random * 6364136223846793005u + 1442695040888963407u;
        size_t j = (block->random >> 33) % i;
        Fiber* other = released[i - 1];
        released[i - 1] = released[j], released[j] = other;
    }
    for (Fiber* f : released) push(f);
}

// Does one of the bulk copies that are under way: the oldest, or any of them where the order is shuffled.
inline void do_bulk_copy() {
    auto& copies = block->bulk_copies;
    size_t which = 0;
    if (block->order == shuffled) block->random = block->random * 6364136223846793005u + 1442695040888963407u, which = (block->random >> 33) % copies.size();
    auto copy = std::move(copies[which]);
    copies.erase(copies.begin() + which);
    copy();
}

// Runs the next runnable fiber; returns when this one is runnable again and its turn has come. Bulk copies land once nothing else can run.
inline void yield() {
    Fiber* self = fiber;
    while (block->next_ready == block->ready.size() && !block->bulk_copies.empty()) do_bulk_copy();
    if (block->next_ready == block->ready.size()) {
        block->ready.clear(), block->next_ready = 0;
        fail(self->file, self->line, "deadlock: every thread waits");
    }
    fiber = block->ready[block->next_ready++];
    if (block->next_ready == block->ready.size()) block->ready.clear(), block->next_ready = 0;
    if (fiber != self) emulator_switch(&self->stack_pointer, fiber->stack_pointer);
}

inline void entry() {
    block->body(block->parameters);
    fiber->state = State::exited;
    block->live--;
    if (block->waiting && block->waiting == block->live) {
        for (auto& f : block->fibers)
            if (f.state == State::at_barrier) fail(f.file, f.line, "divergent barrier: thread %d exited while others wait at __syncthreads", fiber->rank);
    }
    void* finished;
    if (!block->live) {
        if (!block->bulk_copies.empty()) fail(fiber->file, fiber->line, "the block ends while %zu bulk copies are under way", block->bulk_copies.size());
        for (auto& w : block->warpgroups)
            if (!w.products.empty()) fail(fiber->file, fiber->line, "the block ends while %zu products of a warpgroup are under way", w.products.size());
    }
    if (!block->live) end_block(), emulator_switch(&finished, block->launcher);
    yield();
    abort();
}

}  // namespace emulator
