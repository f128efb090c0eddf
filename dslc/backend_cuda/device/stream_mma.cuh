// The products of streaming kernels on tensor cores: a warp has 16 ROWS rows of the tile. Tiles, of 16-bit elements or of float in tf32, lie as rows of
// 16-byte chunks, each chunk moved within its row, so that eight rows of one column of chunks are read without conflicts.
#pragma once
#include "device/math.cuh"
#include "device/mma.cuh"

// Where chunk `chunk` of row `row` lies, counted in chunks; CHUNKS of a row are a multiple of 8.
template <int CHUNKS> __device__ __forceinline__ int chunk_place(int row, int chunk) { return row * CHUNKS + (chunk ^ (row & 7)); }

// s += x y^T over STEPS steps of 32 bytes of terms: rows `row` on of x, all rows of y.
template <typename T, int CHUNKS, int STEPS, int ROWS, int COLUMNS>
__device__ __forceinline__ void multiply_rows_mma(float (&s)[ROWS][COLUMNS][4], const uint4* x, const uint4* y, int row) {
    const int lane = threadIdx.x % 32u;
#pragma unroll
    for (int k = 0; k < STEPS; ++k) {
        unsigned a[ROWS][4];
#pragma unroll
        for (int m = 0; m < ROWS; ++m) {
            load_matrix_x4(a[m], x + chunk_place<CHUNKS>(row + 16 * m + lane % 16, 2 * k + lane / 16));
            round_factors<T>(a[m]);
        }
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 2) {
            unsigned b[4];
            load_matrix_x4(b, y + chunk_place<CHUNKS>(8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            round_factors<T>(b);
            const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
            for (int m = 0; m < ROWS; ++m) {
                multiply_fragments<T>(s[m][n], a[m], low);
                multiply_fragments<T>(s[m][n + 1], a[m], high);
            }
        }
    }
}

// Two neighbouring values, rounded by one instruction.
__device__ __forceinline__ void encode_pair(float low, float high, __half2& to) { to = __floats2half2_rn(low, high); }
__device__ __forceinline__ void encode_pair(float low, float high, __nv_bfloat162& to) { to = __floats2bfloat162_rn(low, high); }
template <typename T> struct PairOf;
template <> struct PairOf<__half> { typedef __half2 type; };
template <> struct PairOf<__nv_bfloat16> { typedef __nv_bfloat162 type; };
template <typename T> __device__ __forceinline__ unsigned packed(float low, float high) {
    union { unsigned word; typename PairOf<T>::type pair; } both = {0};
    encode_pair(low, high, both.pair);
    return both.word;
}

// o += p v: the columns of p are the rows of v. Unless p is ROUNDED to T already, it is the sum of a rounded part and of a rounded rest.
template <typename T, int CHUNKS, bool ROUNDED, int ROWS, int COLUMNS, int FEATURES>
__device__ __forceinline__ void multiply_weights_mma(float (&o)[ROWS][FEATURES][4], const float (&p)[ROWS][COLUMNS][4], const uint4* v) {
    const int lane = threadIdx.x % 32u;
#pragma unroll
    for (int k = 0; k < COLUMNS / 2; ++k) {
        unsigned a[ROWS][4], rest[ROWS][4];
#pragma unroll
        for (int m = 0; m < ROWS; ++m)
#pragma unroll
            for (int u = 0; u < 4; ++u) {
                const float low = p[m][2 * k + u / 2][u % 2 * 2], high = p[m][2 * k + u / 2][u % 2 * 2 + 1];
                a[m][u] = packed<T>(low, high);
                if (!ROUNDED) rest[m][u] = packed<T>(low - rounded_to<T>(low), high - rounded_to<T>(high));
            }
#pragma unroll
        for (int n = 0; n < FEATURES; n += 2) {
            unsigned b[4];
            load_matrix_x4_trans(b, v + chunk_place<CHUNKS>(16 * k + lane % 16, n + lane / 16));
            const unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
            for (int m = 0; m < ROWS; ++m) {
                mma_m16n8k16(o[m][n], a[m], left, T());
                mma_m16n8k16(o[m][n + 1], a[m], right, T());
                if (ROUNDED) continue;
                mma_m16n8k16(o[m][n], rest[m], left, T());
                mma_m16n8k16(o[m][n + 1], rest[m], right, T());
            }
        }
    }
}

// The same in tf32, each 8 columns of p one product: of its terms t and t + 4 are p's columns 2t and 2t + 1, which a thread has. What a warp reads of v
// at once lies in 32 different banks.
template <int CHUNKS, int ROWS, int COLUMNS, int FEATURES>
__device__ __forceinline__ void multiply_weights_tf32(float (&o)[ROWS][FEATURES][4], const float (&p)[ROWS][COLUMNS][4], const uint4* v) {
    const int g = threadIdx.x % 32u / 4u, t = threadIdx.x % 4u;
    const float* elements = reinterpret_cast<const float*>(v);
#pragma unroll
    for (int k = 0; k < COLUMNS; ++k) {
        unsigned a[ROWS][4];
#pragma unroll
        for (int m = 0; m < ROWS; ++m)
#pragma unroll
            for (int u = 0; u < 4; ++u) a[m][u] = __float_as_uint(nearest_tf32(p[m][k][u % 2 * 2 + u / 2]));
#pragma unroll
        for (int n = 0; n < FEATURES; ++n) {
            unsigned b[2];
#pragma unroll
            for (int u = 0; u < 2; ++u) {
                b[u] = __float_as_uint(nearest_tf32(elements[4 * chunk_place<CHUNKS>(8 * k + 2 * t + u, 2 * n + g / 4) + g % 4]));
            }
#pragma unroll
            for (int m = 0; m < ROWS; ++m) mma_m16n8k8(o[m][n], a[m], b);
        }
    }
}
