// Hopper's copy engine and what orders it (sm_90): mbarriers, tile copies through tensor maps, named barriers, registers passed between warpgroups.
#pragma once
#include "device/tf32.cuh"

#ifndef DSLC_EMULATED

struct alignas(64) TensorMap { char bytes[128]; };  // CUtensorMap

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// A phase of an mbarrier ends when `arrivals` threads have arrived and all bytes that they expect have landed.
__device__ __forceinline__ void mbarrier_init(unsigned long long* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Behind the initializations, by the thread that made them, before the block's barrier.
__device__ __forceinline__ void mbarrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory"); }
__device__ __forceinline__ void mbarrier_arrive(unsigned long long* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_expect(unsigned long long* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended: 0 for the first one. Before the first has ended, the one of parity 1 counts as ended.
__device__ __forceinline__ void mbarrier_wait(unsigned long long* barrier, unsigned parity) {
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}"
                 :: "r"(shared_address(barrier)), "r"(parity) : "memory");
}

// Copies the map's box at these coordinates, densest axis first, to shared memory; elements outside the tensor are zeros, and those of
// a map of tf32 are rounded to the nearest, ties to even (NVIDIA does not say so; an H200 does it). One thread issues it.
__device__ __forceinline__ void copy_tile(void* shared, const TensorMap* map, unsigned long long* barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void copy_tile(void* shared, const TensorMap* map, unsigned long long* barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z) : "memory");
}
__device__ __forceinline__ void copy_tile(void* shared, const TensorMap* map, unsigned long long* barrier, int x, int y, int z, int u) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(u) : "memory");
}
__device__ __forceinline__ void copy_tile(void* shared, const TensorMap* map, unsigned long long* barrier, int x, int y, int z, int u, int v) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(u), "r"(v) : "memory");
}
__device__ __forceinline__ void prefetch_map(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" :: "l"(map) : "memory"); }

// Makes this thread's stores to shared memory visible to the copy engine and to wgmma; a barrier must follow.
__device__ __forceinline__ void fence_shared_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Barriers 1 .. 15 of some whole warps: `threads` of them meet; those that arrive do not wait.
__device__ __forceinline__ void named_barrier_sync(int number, int threads) { asm volatile("bar.sync %0, %1;" :: "r"(number), "r"(threads) : "memory"); }
__device__ __forceinline__ void named_barrier_arrive(int number, int threads) { asm volatile("bar.arrive %0, %1;" :: "r"(number), "r"(threads) : "memory"); }

// The whole warpgroup gives registers back down to N a thread, or waits until it has N.
template <int N> __device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }
template <int N> __device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

#else

// What dslc/runtime/drivers/emulated_device.py packs. A copy lands as late as it may (reverse order: at once), so that a missing wait reads what was
// there before, and a stage that is given back too early is overwritten while it is read.
struct alignas(64) TensorMap {
    const char* base;
    uint64_t strides[4];
    uint32_t dims[5], box[5], steps[5], rank, element, swizzle, tf32;
};

inline void mbarrier_init(unsigned long long* barrier, int arrivals) {
    emulator::Inside guard;
    *reinterpret_cast<emulator::Mbarrier*>(barrier) = {0, (uint32_t)arrivals, (uint32_t)arrivals, 1, 0};
    emulator::barrier_made(barrier);
}
inline void mbarrier_fence() { emulator::proxy_fence(); }
inline void mbarrier_arrive_expect(unsigned long long* barrier, int bytes, EMULATOR_HERE) {
    emulator::Inside guard;
    emulator::Mbarrier& b = emulator::mbarrier_at(barrier, file, line);
    if (!b.lacking) emulator::fail(file, line, "mbarrier: more arrivals than its %d", (int)b.count);
    b.bytes += bytes, b.lacking--;
    emulator::arrived(barrier);
    emulator::complete(barrier);
}
inline void mbarrier_arrive(unsigned long long* barrier, EMULATOR_HERE) { mbarrier_arrive_expect(barrier, 0, file, line); }
inline void mbarrier_wait(unsigned long long* barrier, unsigned parity, EMULATOR_HERE) {
    emulator::Inside guard;
    if (emulator::mbarrier_at(barrier, file, line).phase == parity) {
        emulator::Fiber* f = emulator::fiber;
        f->state = emulator::State::at_mbarrier, f->argument = barrier, f->mask = parity, f->file = file, f->line = line;
        emulator::yield();
    }
    emulator::waited(barrier);
}
// Calls `row_at(row, from, inside)` for each row of the box: where its first element lies, and whether its coordinates but the first are inside.
template <typename Row> inline void rows_of_box(const TensorMap& map, const int* at, Row row_at) {
    int rows = 1;
    for (unsigned k = 1; k < map.rank; k++) rows *= map.box[k];
    for (int row = 0; row < rows; row++) {
        bool inside = true;
        const char* from = map.base + (int64_t)at[0] * map.element;
        for (int k = 1, rest = row; k < (int)map.rank; k++) {
            int c = at[k] + rest % map.box[k] * map.steps[k];
            rest /= map.box[k];
            inside &= c >= 0 && c < (int)map.dims[k];
            from += (int64_t)c * (int64_t)map.strides[k - 1];
        }
        row_at(row, from, inside);
    }
}
inline int box_bytes(const TensorMap& map) {
    int bytes = map.element;
    for (unsigned k = 0; k < map.rank; k++) bytes *= map.box[k];
    return bytes;
}
inline void land_tile(char* to, const TensorMap& map, unsigned long long* barrier, const int* at) {
    int bytes = map.box[0] * map.element;
    rows_of_box(map, at, [&](int row, const char* from, bool inside) {
        for (int i = 0; i < (int)map.box[0]; i++) {
            int c = at[0] + i;
            size_t place = (size_t)row * bytes + (size_t)i * map.element;
            if (map.swizzle) place ^= place >> 3 & (map.swizzle - 16);  // 16-byte chunks trade places within 128 bytes, by the row
            if (inside && c >= 0 && c < (int)map.dims[0]) memcpy(to + place, from + (int64_t)i * map.element, map.element);
            else memset(to + place, 0, map.element);
            if (map.tf32) *(float*)(to + place) = copied_as_tf32(*(float*)(to + place));
        }
    });
    emulator::tile_landed(to, box_bytes(map), barrier);
    reinterpret_cast<emulator::Mbarrier*>(barrier)->bytes -= box_bytes(map);
    emulator::complete(barrier);
}
EMULATOR_CALLED inline void copy_box(void* shared, const TensorMap* map, unsigned long long* barrier, std::initializer_list<int> at, const char* file, int line) {
    emulator::Inside guard;
    emulator::mbarrier_at(barrier, file, line);
    if (at.size() != map->rank) emulator::fail(file, line, "a copy with %d coordinates through a map of rank %d", (int)at.size(), (int)map->rank);
    if ((size_t)shared % (map->swizzle ? 8 * map->swizzle : 128)) emulator::fail(file, line, "a swizzled tile at an address that is not a multiple of %d", 8 * map->swizzle);
    int places[5] = {};
    std::copy(at.begin(), at.end(), places);
    TensorMap m = *map;
    void* code = EMULATOR_CODE;
    if (emulator::checked) {
        int first = std::max(0, -places[0]), last = std::min((int)m.box[0], (int)m.dims[0] - places[0]);
        rows_of_box(m, places, [&](int, const char* from, bool inside) {
            if (inside && first < last) emulator::tile_reads(from + (int64_t)first * m.element, (size_t)(last - first) * m.element, code);
        });
        emulator::barrier_used(barrier, file, line);
        emulator::tile_issued(shared, box_bytes(m), code);
    }
    auto land = [=]() { land_tile((char*)shared, m, barrier, places); };
    if (emulator::block->order == emulator::reverse) land();
    else emulator::block->bulk_copies.push_back(land);
}
__forceinline__ void copy_tile(void* s, const TensorMap* m, unsigned long long* b, int x, int y, EMULATOR_HERE) { copy_box(s, m, b, {x, y}, file, line); }
struct EmulatedLine {  // an int default argument cannot stand behind optional coordinates
    const char* file;
    int line;
    EmulatedLine(EMULATOR_HERE) : file(file), line(line) {}
};
__forceinline__ void copy_tile(void* s, const TensorMap* m, unsigned long long* b, int x, int y, int z, EmulatedLine at = {}) { copy_box(s, m, b, {x, y, z}, at.file, at.line); }
__forceinline__ void copy_tile(void* s, const TensorMap* m, unsigned long long* b, int x, int y, int z, int u, EmulatedLine at = {}) { copy_box(s, m, b, {x, y, z, u}, at.file, at.line); }
__forceinline__ void copy_tile(void* s, const TensorMap* m, unsigned long long* b, int x, int y, int z, int u, int v, EmulatedLine at = {}) {
    copy_box(s, m, b, {x, y, z, u, v}, at.file, at.line);
}
inline void prefetch_map(const TensorMap*) {}
inline void fence_shared_async() { emulator::proxy_fence(); }
inline void named_barrier_sync(int number, int threads, EMULATOR_HERE) { emulator::named_barrier(number, threads, true, file, line); }
inline void named_barrier_arrive(int number, int threads, EMULATOR_HERE) { emulator::named_barrier(number, threads, false, file, line); }
template <int N> inline void give_registers(EMULATOR_HERE) { emulator::set_registers(N, false, file, line); }
template <int N> inline void take_registers(EMULATOR_HERE) { emulator::set_registers(N, true, file, line); }

#endif
