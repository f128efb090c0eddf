// What no kernel changes: fibers that switch, barriers, blocks and grids. Compiled once; every module of kernels is linked with it.
#include <link.h>
#include <sys/mman.h>

#include <atomic>
#include <mutex>
#include <numeric>
#include <thread>

#include "cuda.h"

namespace emulator {

constinit thread_local Block* block = nullptr;
constinit thread_local Fiber* fiber = nullptr;

constexpr size_t stack_size = 64 << 10;

Block::~Block() {
    end_launch(*this);
    if (stacks) munmap(stacks, stacks_size);
    free(dynamic_shared);
}

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

void fail(const char* file, int line, const char* format, ...) {
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

void make_ready(std::vector<Fiber*>& released) {
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
static void do_bulk_copy() {
    auto& copies = block->bulk_copies;
    size_t which = 0;
    if (block->order == shuffled) block->random = block->random * 6364136223846793005u + 1442695040888963407u, which = (block->random >> 33) % copies.size();
    auto copy = std::move(copies[which]);
    copies.erase(copies.begin() + which);
    copy();
}

void yield() {
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

// What a thread begins with: the block has all registers of a multiprocessor.
static int first_registers() { return std::min(65536 / block->threads, 255) / 8 * 8; }

static void check_registers() {
    if (!block->warpgroups[0].registers) return;
    int taken = 0, given = first_registers() * block->threads;
    for (auto& w : block->warpgroups) taken += 128 * (w.registers ? w.registers : first_registers());
    if (taken > given) fail(fiber->file, fiber->line, "setmaxnreg: the warpgroups take %d registers, the block has %d: one waits for ever", taken, given);
}

static void entry() {
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
        check_registers();
    }
    if (!block->live) end_block(), emulator_switch(&finished, block->launcher);
    yield();
    abort();
}

int barrier(int vote, const char* file, int line) {
    Inside guard;
    Block& b = *block;
    unsigned parity = b.phase & 1;
    fiber->state = State::at_barrier, fiber->file = file, fiber->line = line;
    b.votes[parity] += vote;
    if (b.live < b.threads && b.waiting + 1 == b.live) fail(file, line, "divergent barrier: %d threads exited before __syncthreads", b.threads - b.live);
    if (++b.waiting == b.threads) {
        std::vector<Fiber*> released;
        for (auto& f : b.fibers) {
            if (f.line != line || strcmp(f.file, file)) fail(file, line, "divergent barrier: threads meet at different __syncthreads");
            released.push_back(&f);
        }
        block_met();
        b.waiting = 0, b.phase++, b.votes[b.phase & 1] = 0;
        make_ready(released);
    }
    yield();
    return b.votes[parity];
}

void named_barrier(int number, int threads, bool waits, const char* file, int line) {
    Inside guard;
    if (number < 1 || number > 15 || threads < 32 || threads % 32) fail(file, line, "no named barrier %d of %d threads", number, threads);
    int said[2] = {number, threads};
    collective(~0u, 36 + waits, said, [=](int** lane, unsigned) {  // a whole warp arrives
        for (int i = 0; i < 32; i++)
            if (!lane[i] || lane[i][0] != number || lane[i][1] != threads) fail(file, line, "named barrier %d: lanes of a warp do not agree", number);
    }, file, line);
    int& waiting = block->named_waiting[number];
    if (waiting && block->named_threads[number] != threads)
        fail(file, line, "named barrier %d of %d threads, at which others wait for %d", number, threads, block->named_threads[number]);
    block->named_threads[number] = threads;
    fiber->file = file, fiber->line = line, fiber->mask = number;
    if (waits) fiber->state = State::at_named_barrier;
    arrived(&waiting);
    if (++waiting == threads) {
        waiting = 0;
        phase_ended(&waiting);
        std::vector<Fiber*> released;
        for (auto& f : block->fibers)
            if (f.state == State::at_named_barrier && f.mask == (unsigned)number) released.push_back(&f);
        make_ready(released);
    }
    if (!waits) return;
    yield();
    waited(&waiting);
}

void set_registers(int count, bool more, const char* file, int line) {
    int none = 0, number = fiber->rank / 128;
    warpgroup(69 + more, &none, [=](int**) {
        int& mine = block->warpgroups[number].registers;
        int before = mine ? mine : first_registers();
        if (more ? count < before : count > before) fail(file, line, "setmaxnreg: from %d registers %s to %d", before, more ? "up" : "down", count);
        mine = count;
    }, file, line);
}

void complete(unsigned long long* place) {
    Mbarrier& b = *reinterpret_cast<Mbarrier*>(place);
    if (b.lacking || b.bytes) return;
    b.phase ^= 1, b.lacking = b.count;
    phase_ended(place);
    std::vector<Fiber*> released;
    for (auto& f : block->fibers)
        if (f.state == State::at_mbarrier && f.argument == place && f.mask != b.phase) released.push_back(&f);
    make_ready(released);
}

// --- blocks and grids

static SharedRange static_shared() {
    block = nullptr;  // a first access makes the storage exist
    SharedRange found{nullptr, 0};
    dl_iterate_phdr([](dl_phdr_info* module, size_t, void* result) {
        const ElfW(Phdr)* storage = nullptr;
        bool ours = false;
        for (int i = 0; i < module->dlpi_phnum; i++) {
            const ElfW(Phdr)& part = module->dlpi_phdr[i];
            uintptr_t start = module->dlpi_addr + part.p_vaddr, here = (uintptr_t)&static_shared;
            if (part.p_type == PT_LOAD && here >= start && here < start + part.p_memsz) ours = true;
            if (part.p_type == PT_TLS) storage = &part;
        }
        if (ours && storage) *(SharedRange*)result = {module->dlpi_tls_data, storage->p_memsz};
        return int(ours);
    }, &found);
    return found;
}

// The block that runs as the k-th of all.
static unsigned long long block_at(const Grid& g, unsigned long long k, unsigned long long blocks) {
    if (g.order == reverse) return blocks - 1 - k;
    if (g.order == forward) return k;
    unsigned long long step = blocks * 5 / 8 + 1;
    while (std::gcd(step, blocks) != 1) step++;
    return (k * step + g.seed) % blocks;
}

static void run_block(Block& b, const Grid& g, unsigned long long rank, SharedRange shared) {
    if (shared.from) memset(shared.from, 0xff, shared.size);
    memset(b.dynamic_shared, 0xff, g.shared_bytes);
    b.index = make_uint3(rank % g.grid.x, rank / g.grid.x % g.grid.y, rank / g.grid.x / g.grid.y);
    b.threads = b.live = int(g.shape.x * g.shape.y * g.shape.z);
    b.waiting = 0, b.phase = 0, b.votes[0] = b.votes[1] = 0, b.random = g.seed * 0x9e3779b97f4a7c15u + rank;
    b.ready.clear(), b.next_ready = 0;
    b.fibers.assign(b.threads, Fiber{});
    b.bulk_copies.clear(), b.warpgroups.assign((b.threads + 127) / 128, Warpgroup{});
    memset(b.named_waiting, 0, sizeof b.named_waiting);
    fiber = nullptr, block = &b;
    begin_block();
    std::vector<Fiber*> all;
    for (int i = 0; i < b.threads; i++) {
        Fiber& f = b.fibers[i];
        f.rank = i, f.inside = 1;
        f.index = make_uint3(i % g.shape.x, i / g.shape.x % g.shape.y, i / g.shape.x / g.shape.y);
        void** top = (void**)(b.stacks + stack_size * (i + 1) - 256 * (i % 16)) - 2;  // staggered, so that tops do not share cache sets
        *top = (void*)entry;
        f.stack_pointer = top - 6;
        all.push_back(&f);
    }
    make_ready(all);
    fiber = b.ready[b.next_ready++];
    emulator_switch(&b.launcher, fiber->stack_pointer);
    block = nullptr, fiber = nullptr;
}

void run_grid(const Grid& g, int workers, Fault* fault) {
    unsigned long long blocks = (unsigned long long)g.grid.x * g.grid.y * g.grid.z;
    std::atomic<unsigned long long> next{0};
    std::atomic<bool> stop{false};
    std::mutex report;
    auto work = [&] {
        SharedRange shared = static_shared();
        Fault mine{};
        Block b;
        b.grid = g.grid, b.shape = g.shape, b.order = g.order, b.body = g.body, b.parameters = g.parameters, b.fault = &mine;
        b.stacks_size = stack_size * g.shape.x * g.shape.y * g.shape.z;
        b.stacks = (char*)mmap(nullptr, b.stacks_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        b.shared = shared, b.dynamic_size = g.shared_bytes, b.buffers = g.buffers, b.buffer_count = g.buffer_count;
        b.dynamic_shared = (char*)aligned_alloc(1024, (g.shared_bytes + 2047) / 1024 * 1024);
        for (unsigned long long rank; !stop && (rank = next++) < blocks;) {
            run_block(b, g, block_at(g, rank, blocks), shared);
            if (!mine.failed) continue;
            std::lock_guard<std::mutex> one(report);
            if (!fault->failed) *fault = mine;
            stop = true;
        }
    };
    if (checked) workers = 1;
    std::vector<std::thread> others;
    for (int i = 1; i < workers && (unsigned long long)i < blocks; i++) others.emplace_back(work);
    work();
    for (auto& t : others) t.join();
}

}  // namespace emulator
