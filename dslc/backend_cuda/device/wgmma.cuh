// Matrix products of a warpgroup (sm_90a): the operands lie in shared memory, the sums in registers; products run beside the threads.
#pragma once
#include "device/narrow.cuh"
#include "device/tf32.cuh"
#include "device/tma.cuh"

// d[64][N] += a[64][16] b[16][N]. Thread t of the warpgroup, of warp w and lane l, has in d[i] row 16 w + l / 4 + 8 (i / 2 % 2), column 8 (i / 4) +
// 2 (l % 4) + i % 2. Operands lie in rows of 128 bytes whose 16-byte chunks are exchanged as the copy engine does it (swizzle of 128 bytes):
// not TRANS: rows of 64 neighbours along k, groups of 8 rows `stride` bytes apart. TRANS: rows of 64 neighbours along m or n, one row a k, groups
// of 8 k `stride` bytes apart, the next 64 of m or n `leading` bytes apart. Tiles begin at multiples of 1024 bytes.
#ifndef DSLC_EMULATED

__device__ __forceinline__ unsigned long long matrix_descriptor(const void* tile, int leading, int stride) {
    return (unsigned long long)((shared_address(tile) & 0x3ffff) >> 4) | (unsigned long long)(leading >> 4) << 16 |
           (unsigned long long)(stride >> 4) << 32 | 1ull << 62;
}
// Before the first product, and after other code has touched accumulators. Then products, a commit, and a wait until at most N groups are under way.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }

#define DSLC_R16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define DSLC_R32 DSLC_R16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DSLC_R48 DSLC_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define DSLC_R64 DSLC_R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DSLC_R96 DSLC_R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define DSLC_R128 DSLC_R96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define DSLC_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define DSLC_D16 DSLC_D8(0), DSLC_D8(8)
#define DSLC_D32(i) DSLC_D8(i), DSLC_D8(i + 8), DSLC_D8(i + 16), DSLC_D8(i + 24)
#define DSLC_D48 DSLC_D32(0), DSLC_D8(32), DSLC_D8(40)
#define DSLC_D64 DSLC_D32(0), DSLC_D32(32)
#define DSLC_D96 DSLC_D64, DSLC_D32(64)
#define DSLC_D128 DSLC_D96, DSLC_D32(96)

// Both operands in shared memory; the sums begin at 0 where `accumulate` is 0. R: registers of the sums, P0 ...: the numbers behind them.
#define DSLC_WGMMA(N, TYPE, SPELLED, R, SUMS, P0, P1, P2, P3, P4)                                                                                       \
    template <bool TRANS_A, bool TRANS_B>                                                                                                               \
    __device__ __forceinline__ void wgmma(float (&d)[N / 2], unsigned long long a, unsigned long long b, int accumulate, TYPE) {                        \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." SPELLED "." SPELLED " {" R "}, "    \
                     P0 ", " P1 ", p, 1, 1, " P3 ", " P4 ";\n}" : SUMS : "l"(a), "l"(b), "r"(accumulate), "n"((int)TRANS_A), "n"((int)TRANS_B));         \
    }
// The first operand in registers, as the first of `mma_m16n8k16` lies for the warp's 16 rows.
#define DSLC_WGMMA_REGISTERS(N, TYPE, SPELLED, R, SUMS, P0, P1, P2, P3, P4, P5, P6)                                                                     \
    template <bool TRANS_B>                                                                                                                             \
    __device__ __forceinline__ void wgmma_registers(float (&d)[N / 2], const unsigned (&a)[4], unsigned long long b, int accumulate, TYPE) {            \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." SPELLED "." SPELLED " {" R "}, {"   \
                     P0 ", " P1 ", " P2 ", " P3 "}, " P4 ", p, 1, 1, " P6 ";\n}"                                                                         \
                     : SUMS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"((int)TRANS_B));                                  \
    }
// The same in tf32, d[64][N] += a[64][8] b[8][N]: of rows of 32 neighbours along k alone, or with the first operand in registers as the first of
// `mma_m16n8k8` lies. The low 13 bits of elements are ignored.
#define DSLC_WGMMA_TF32(N, R, SUMS, P0, P1, P2, P3, P4, P5)                                                                                             \
    template <bool TRANS_A, bool TRANS_B>                                                                                                               \
    __device__ __forceinline__ void wgmma(float (&d)[N / 2], unsigned long long a, unsigned long long b, int accumulate, float) {                       \
        static_assert(!TRANS_A && !TRANS_B, "operands of 4 bytes lie along the terms");                                                                 \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k8.f32.tf32.tf32 {" R "}, "                   \
                     P0 ", " P1 ", p, 1, 1;\n}" : SUMS : "l"(a), "l"(b), "r"(accumulate));                                                              \
    }                                                                                                                                                   \
    template <bool TRANS_B>                                                                                                                             \
    __device__ __forceinline__ void wgmma_registers(float (&d)[N / 2], const unsigned (&a)[4], unsigned long long b, int accumulate, float) {           \
        static_assert(!TRANS_B, "operands of 4 bytes lie along the terms");                                                                             \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k8.f32.tf32.tf32 {" R "}, {"                  \
                     P0 ", " P1 ", " P2 ", " P3 "}, " P4 ", p, 1, 1;\n}"                                                                                \
                     : SUMS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                                                     \
    }
DSLC_WGMMA_TF32(32, DSLC_R16, DSLC_D16, "%16", "%17", "%18", "%19", "%20", "%21")
DSLC_WGMMA_TF32(64, DSLC_R32, DSLC_D32(0), "%32", "%33", "%34", "%35", "%36", "%37")
DSLC_WGMMA_TF32(96, DSLC_R48, DSLC_D48, "%48", "%49", "%50", "%51", "%52", "%53")
DSLC_WGMMA_TF32(128, DSLC_R64, DSLC_D64, "%64", "%65", "%66", "%67", "%68", "%69")
DSLC_WGMMA_TF32(192, DSLC_R96, DSLC_D96, "%96", "%97", "%98", "%99", "%100", "%101")
DSLC_WGMMA_TF32(256, DSLC_R128, DSLC_D128, "%128", "%129", "%130", "%131", "%132", "%133")
DSLC_WGMMA(64, __nv_bfloat16, "bf16", DSLC_R32, DSLC_D32(0), "%32", "%33", "%34", "%35", "%36")
DSLC_WGMMA_REGISTERS(64, __nv_bfloat16, "bf16", DSLC_R32, DSLC_D32(0), "%32", "%33", "%34", "%35", "%36", "%37", "%38")
DSLC_WGMMA(64, __half, "f16", DSLC_R32, DSLC_D32(0), "%32", "%33", "%34", "%35", "%36")
DSLC_WGMMA_REGISTERS(64, __half, "f16", DSLC_R32, DSLC_D32(0), "%32", "%33", "%34", "%35", "%36", "%37", "%38")
DSLC_WGMMA(128, __nv_bfloat16, "bf16", DSLC_R64, DSLC_D64, "%64", "%65", "%66", "%67", "%68")
DSLC_WGMMA_REGISTERS(128, __nv_bfloat16, "bf16", DSLC_R64, DSLC_D64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
DSLC_WGMMA(128, __half, "f16", DSLC_R64, DSLC_D64, "%64", "%65", "%66", "%67", "%68")
DSLC_WGMMA_REGISTERS(128, __half, "f16", DSLC_R64, DSLC_D64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
DSLC_WGMMA(192, __nv_bfloat16, "bf16", DSLC_R96, DSLC_D96, "%96", "%97", "%98", "%99", "%100")
DSLC_WGMMA_REGISTERS(192, __nv_bfloat16, "bf16", DSLC_R96, DSLC_D96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
DSLC_WGMMA(192, __half, "f16", DSLC_R96, DSLC_D96, "%96", "%97", "%98", "%99", "%100")
DSLC_WGMMA_REGISTERS(192, __half, "f16", DSLC_R96, DSLC_D96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
DSLC_WGMMA(256, __nv_bfloat16, "bf16", DSLC_R128, DSLC_D128, "%128", "%129", "%130", "%131", "%132")
DSLC_WGMMA_REGISTERS(256, __nv_bfloat16, "bf16", DSLC_R128, DSLC_D128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")
DSLC_WGMMA(256, __half, "f16", DSLC_R128, DSLC_D128, "%128", "%129", "%130", "%131", "%132")
DSLC_WGMMA_REGISTERS(256, __half, "f16", DSLC_R128, DSLC_D128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

#else

// Products are done when they are waited for, from what then lies in shared memory: a stage given back too early, or read before its copy has landed,
// gives wrong sums. Each group of 16 terms, of tf32 8, is summed in double and rounded once.
inline unsigned long long matrix_descriptor(const void* tile, int leading, int stride, EMULATOR_HERE) {
    size_t place = (const char*)tile - emulator::block->dynamic_shared;
    if (place >= 1 << 18) emulator::fail(file, line, "wgmma: an operand that does not lie in dynamic shared memory");
    return (unsigned long long)(place >> 4) | (unsigned long long)(leading >> 4) << 16 | (unsigned long long)(stride >> 4) << 32 | 1ull << 62;
}
inline const char* matrix_place(unsigned long long descriptor, bool transposed, int x, int k) {
    size_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
    size_t place = transposed ? start + x / 64 * leading + k / 8 * stride + k % 8 * 128 + x % 64 * 2 : start + x / 8 * stride + x % 8 * 128 + k * 2;
    return emulator::block->dynamic_shared + (place ^ (place >> 3 & 0x70));
}
// An element of 16 bits, or a float whose low bits are ignored.
template <typename T> inline float matrix_element(unsigned long long descriptor, bool transposed, int x, int k) {
    std::conditional_t<sizeof(T) == 4, unsigned, unsigned short> bits;
    memcpy(&bits, matrix_place(descriptor, transposed, x, k * (int)sizeof(T) / 2), sizeof(T));
    if constexpr (sizeof(T) == 4) return cut_to_tf32(bits);
    else return (float)emulator::bits_as<T>(bits);
}
inline void matrix_reads(int number, unsigned long long descriptor, bool transposed, int size, void* code) {
    for (int x = 0; emulator::checked && x < size; x++)
        for (int k = 0; k < 16; k++) emulator::product_reads(number, matrix_place(descriptor, transposed, x, k), 2, code);
}
inline void wgmma_fence(EMULATOR_HERE) {
    int none = 0, number = emulator::fiber->rank / 128;
    emulator::warpgroup(64, &none, [=](int**) { emulator::block->warpgroups[number].fenced = true; }, file, line);
}
inline void wgmma_commit(EMULATOR_HERE) {
    int none = 0, number = emulator::fiber->rank / 128;
    emulator::warpgroup(65, &none, [=](int**) { emulator::block->warpgroups[number].groups++; }, file, line);
}
template <int N> inline void wgmma_wait(EMULATOR_HERE) {
    int none = 0, number = emulator::fiber->rank / 128;
    emulator::warpgroup(66, &none, [=](int**) {
        auto& group = emulator::block->warpgroups[number];
        group.fenced = false;
        while (!group.products.empty() && group.products.front().group < group.groups - N) {
            auto product = std::move(group.products.front());
            group.products.pop_front();
            auto& sums = group.accumulators[product.accumulator];
            product.run(sums.values.data());
            if (--sums.pending) continue;
            size_t each = sums.values.size() / 128;
            for (int t = 0; t < 128; t++) memcpy(sums.of_thread[t], sums.values.data() + t * each, each * 4);
            group.accumulators.erase(product.accumulator);
        }
        emulator::product_waited(number, (int)group.products.size());
    }, file, line);
}
// Puts a product of K terms in the queue. `first(row, k)` and `second(column, k)` give the operands when it is done; values: [thread][R].
template <int R, int K, typename First, typename Second>
inline void wgmma_issue(float* const (&d)[128], int number, int accumulate, First first, Second second, const char* file, int line) {
    auto& group = emulator::block->warpgroups[number];
    if (!group.fenced) emulator::fail(file, line, "wgmma: no fence between what threads may have done with its registers and a product");
    auto& sums = group.accumulators[d[0]];
    if (!sums.pending++) {
        sums.values.resize(128 * R);
        for (int t = 0; t < 128; t++) {
            sums.of_thread[t] = d[t];
            memcpy(sums.values.data() + t * R, d[t], R * 4);
            memset(d[t], 0xff, R * 4);
        }
    }
    group.products.push_back({d[0], group.groups, [=](float* values) EMULATOR_UNSEEN {
        static thread_local double a[64][K], b[2 * R][K];
        for (int row = 0; row < 64; row++) for (int k = 0; k < K; k++) a[row][k] = first(row, k);
        for (int column = 0; column < 2 * R; column++) for (int k = 0; k < K; k++) b[column][k] = second(column, k);
        for (int t = 0; t < 128; t++)
            for (int i = 0; i < R; i++) {
                int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
                double total = accumulate ? values[t * R + i] : 0.0;
                for (int k = 0; k < K; k++) total += a[row][k] * b[column][k];
                values[t * R + i] = (float)total;
            }
    }});
}
template <bool TRANS_A, bool TRANS_B, int R, typename T>
EMULATOR_CALLED void wgmma(float (&d)[R], unsigned long long a, unsigned long long b, int accumulate, T, EMULATOR_HERE) {
    static_assert(sizeof(T) == 2 || (!TRANS_A && !TRANS_B), "operands of 4 bytes lie along the terms");
    struct Argument { float* d; unsigned long long a, b; int accumulate; } mine{d, a, b, accumulate};
    int number = emulator::fiber->rank / 128;
    void* code = EMULATOR_CODE;
    emulator::warpgroup(67, &mine, [=](Argument** q) {
        float* sums[128];
        for (int t = 0; t < 128; t++) {
            sums[t] = q[t]->d;
            if (q[t]->a != a || q[t]->b != b || !q[t]->accumulate != !accumulate) emulator::fail(file, line, "wgmma: operands differ within the warpgroup");
        }
        if ((a >> 3 | b >> 3) & 7) emulator::fail(file, line, "wgmma: an operand whose 8 rows do not begin at a multiple of 1024 bytes");
        emulator::product_issued(number);
        matrix_reads(number, a, TRANS_A, 64, code);
        matrix_reads(number, b, TRANS_B, 2 * R, code);
        wgmma_issue<R, 32 / (int)sizeof(T)>(sums, number, accumulate, [=](int row, int k) { return matrix_element<T>(a, TRANS_A, row, k); },
                                            [=](int column, int k) { return matrix_element<T>(b, TRANS_B, column, k); }, file, line);
    }, file, line);
}
// Where a thread of the warpgroup has element `i` of the first operand: (row, term).
template <typename T> inline std::pair<int, int> place_in_registers(int thread, int i) {
    const int row = thread / 32 * 16 + thread % 32 / 4, k = thread % 4;
    if constexpr (sizeof(T) == 4) return {row + i % 2 * 8, k + i / 2 * 4};
    else return {row + i / 2 % 2 * 8, i / 4 * 8 + k * 2 + i % 2};
}
template <bool TRANS_B, int R, typename T>
EMULATOR_CALLED void wgmma_registers(float (&d)[R], const unsigned (&a)[4], unsigned long long b, int accumulate, T, EMULATOR_HERE) {
    static_assert(sizeof(T) == 2 || !TRANS_B, "operands of 4 bytes lie along the terms");
    constexpr int K = 32 / (int)sizeof(T);
    struct Argument { float* d; const unsigned* a; unsigned long long b; } mine{d, a, b};
    int number = emulator::fiber->rank / 128;
    void* code = EMULATOR_CODE;
    emulator::warpgroup(68, &mine, [=](Argument** q) {
        float* sums[128];
        std::vector<float> rows(64 * K);
        for (int t = 0; t < 128; t++) {
            sums[t] = q[t]->d;
            if (q[t]->b != b) emulator::fail(file, line, "wgmma: operands differ within the warpgroup");
            for (int i = 0; i < K / 2; i++) {
                auto [row, k] = place_in_registers<T>(t, i);
                if constexpr (sizeof(T) == 4) rows[row * K + k] = cut_to_tf32(q[t]->a[i]);
                else rows[row * K + k] = (float)emulator::bits_as<T>((unsigned short)(q[t]->a[i / 2] >> 16 * (i % 2)));
            }
        }
        emulator::product_issued(number);
        matrix_reads(number, b, TRANS_B, 2 * R, code);
        wgmma_issue<R, K>(sums, number, accumulate, [=](int row, int k) { return rows[row * K + k]; },
                          [=](int column, int k) { return matrix_element<T>(b, TRANS_B, column, k); }, file, line);
    }, file, line);
}

#endif
