// A grid: its blocks are claimed one by one by OS threads, in the order asked for. Shared memory is thread-local storage of the module, filled with
// NaNs before each block.
#pragma once
#include <link.h>

#include <atomic>
#include <mutex>
#include <numeric>
#include <thread>
#include <tuple>
#include <utility>

#include "fiber.h"

namespace emulator {

inline void* dynamic_shared() { return block->dynamic_shared; }

inline SharedRange static_shared() {
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

struct Grid {
    dim3 grid, shape;
    size_t shared_bytes;
    Order order;
    unsigned seed;
    void (*body)(void**);
    void** parameters;
    const Buffer* buffers;
    int buffer_count;
};

// The block that runs as the k-th of all.
inline unsigned long long block_at(const Grid& g, unsigned long long k, unsigned long long blocks) {
    if (g.order == reverse) return blocks - 1 - k;
    if (g.order == forward) return k;
    unsigned long long step = blocks * 5 / 8 + 1;
    while (std::gcd(step, blocks) != 1) step++;
    return (k * step + g.seed) % blocks;
}

inline void run_block(Block& b, const Grid& g, unsigned long long rank, SharedRange shared) {
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

inline void run_grid(const Grid& g, int workers, Fault* fault) {
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

template <auto kernel> struct Call;
template <typename... A, void (*kernel)(A...)> struct Call<kernel> {
    template <size_t... I> static void spread(void** p, std::index_sequence<I...>) {
        std::tuple<std::remove_const_t<A>...> given(*static_cast<std::remove_const_t<A>*>(p[I])...);
        fiber->inside = 0;
        kernel(std::get<I>(given)...);
        fiber->inside = 1;
    }
    static void body(void** p) { spread(p, std::index_sequence_for<A...>{}); }
};

}  // namespace emulator

// Makes a kernel callable by the driver: `parameters` are pointers to the arguments, as for cuLaunchKernel.
#define EMULATOR_EXPORT(kernel)                                                                                                              \
    extern "C" __attribute__((visibility("default"))) void emulated_##kernel(const unsigned* shape, size_t shared_bytes, int order, unsigned seed, \
                                                                            int workers, void** parameters, const emulator::Buffer* buffers,      \
                                                                            int buffer_count, emulator::Fault* fault) {                      \
        emulator::run_grid({dim3(shape[0], shape[1], shape[2]), dim3(shape[3], shape[4], shape[5]), shared_bytes, (emulator::Order)order, seed, \
                            emulator::Call<kernel>::body, parameters, buffers, buffer_count}, workers, fault);                               \
    }
