// Tensor-core products of one warp (sm_80) and the loads that lay out their operands. In the fragments below g = lane / 4 and t = lane % 4.
#pragma once
#include "device/narrow.cuh"
#include "device/tf32.cuh"

// d[16][8] += a[16][16] b[16][8]. a: rows g and g + 8, columns 2t and 2t + 8 (registers 0..3: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), two
// neighbouring columns each); b: rows 2t and 2t + 8, column g; d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#ifndef DSLC_EMULATED

__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Matrices of 8 x 8 elements of 16 bits: lanes 8k .. 8k + 7 name the rows (16 bytes each) of matrix k; register k gets its row g, columns 2t and 2t + 1.
__device__ __forceinline__ void load_matrix_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
// The same matrices transposed: register k gets rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void load_matrix_x4_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

#else

// Products are exact in float; a sum is taken in double and rounded once (a GPU's order of addition is not specified).
template <typename T>
inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], T, EMULATOR_HERE) {
    struct Operands { unsigned a[4], b[2]; float* d; } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, d};
    emulator::collective(~0u, 32, &mine, [](Operands** lane, unsigned) EMULATOR_UNSEEN {
        double left[16][16], right[8][16];  // by row, or column, and term
        for (int i = 0; i < 32; i++)
            for (int k = 0; k < 12; k++) {
                unsigned word = k < 8 ? lane[i]->a[k / 2] : lane[i]->b[k / 2 - 4];
                int column = i % 4 * 2 + k % 2;
                double value = (float)emulator::bits_as<T>((unsigned short)(word >> 16 * (k % 2)));
                if (k < 8) left[i / 4 + k / 2 % 2 * 8][column + k / 4 * 8] = value;
                else right[i / 4][column + (k / 2 - 4) * 8] = value;
            }
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                float& sum = lane[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
                double total = sum;
                for (int k = 0; k < 16; k++) total += left[row][k] * right[column][k];
                sum = (float)total;
            }
    }, file, line);
}
template <bool TRANSPOSED> EMULATOR_CALLED void load_matrices(unsigned (&r)[4], const void* row, const char* file, int line) {
    if ((size_t)row % 16) emulator::fail(file, line, "ldmatrix: a row that is not 16-byte aligned");
    emulator::reads(row, 16, EMULATOR_CODE);
    struct Rows { const unsigned short* row; unsigned* r; } mine{(const unsigned short*)row, r};
    emulator::collective(~0u, 33 + TRANSPOSED, &mine, [](Rows** lane, unsigned) {
        for (int i = 0; i < 32; i++)
            for (int k = 0; k < 4; k++) {
                int g = i / 4, t = i % 4 * 2;
                unsigned low = TRANSPOSED ? lane[8 * k + t]->row[g] : lane[8 * k + g]->row[t];
                unsigned high = TRANSPOSED ? lane[8 * k + t + 1]->row[g] : lane[8 * k + g]->row[t + 1];
                lane[i]->r[k] = low | high << 16;
            }
    }, file, line);
}
__forceinline__ void load_matrix_x4(unsigned (&r)[4], const void* row, EMULATOR_HERE) { load_matrices<false>(r, row, file, line); }
__forceinline__ void load_matrix_x4_trans(unsigned (&r)[4], const void* row, EMULATOR_HERE) { load_matrices<true>(r, row, file, line); }

#endif

// 16-bit elements T, or float in tf32, whose factors are rounded before: a fragment of a tile that lies along the terms is 32 bytes wide in either.
template <typename T> __device__ __forceinline__ void round_factors(unsigned (&x)[4]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int k = 0; k < 4; ++k) x[k] = __float_as_uint(nearest_tf32(__uint_as_float(x[k])));
    }
}
template <typename T> __device__ __forceinline__ void multiply_fragments(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (sizeof(T) == 4) mma_m16n8k8(d, a, b);
    else mma_m16n8k16(d, a, b, T());
}
