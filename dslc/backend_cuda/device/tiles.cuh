// Products of tiles that threads put into shared memory (sm_80). A tile has one row an element of its own dim (ALONG_TERMS), or one row a term; its rows
// are CHUNKS chunks of 16 bytes, exchanged within each 128 bytes so that neither stores nor the loads below meet bank conflicts.
#pragma once
#include "device/narrow.cuh"
#include "device/mma.cuh"
#include "device/gemm.cuh"

template <int CHUNKS> __device__ __forceinline__ int tile_place(int row, int chunk) {
    constexpr int SPAN = CHUNKS < 8 ? CHUNKS : 8;
    return row * CHUNKS + (chunk ^ row / (8 / SPAN) % SPAN);
}

// Where an element of 4 bytes lies that tensor cores multiply, in a tile with one row a term: rows are 8 elements longer than their WIDTH, so that those
// of 8 neighbours in 4 neighbouring terms, which a warp reads at once, lie in 32 different banks.
template <int WIDTH> __device__ __forceinline__ int place_in_term(int term, int x) { return term * (WIDTH + 8) + x; }

// The fragment of 16 elements of the own dim and 16 terms, of 4 bytes 8 terms, as `multiply_fragments` takes its first operand.
template <bool ALONG_TERMS, int CHUNKS, typename T> __device__ __forceinline__ void load_rows(unsigned (&a)[4], const T* tile, int row, int term) {
    constexpr int V = 16 / (int)sizeof(T);
    const int lane = threadIdx.x % 32, inner = lane % 8, low = lane / 8 % 2, high = lane / 16;
    if constexpr (ALONG_TERMS) load_matrix_x4(a, tile + V * tile_place<CHUNKS>(row + 8 * low + inner, term / V + high));
    else if constexpr (sizeof(T) == 2) load_matrix_x4_trans(a, tile + 8 * tile_place<CHUNKS>(term + 8 * high + inner, row / 8 + low));
    else {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            a[k] = __float_as_uint(tile[place_in_term<V * CHUNKS>(term + lane % 4 + k / 2 * 4, row + lane / 4 + k % 2 * 8)]);
        }
    }
    round_factors<T>(a);
}
// The same as two second operands of 8 columns each: the first in b[0] and b[1].
template <bool ALONG_TERMS, int CHUNKS, typename T> __device__ __forceinline__ void load_columns(unsigned (&b)[4], const T* tile, int column, int term) {
    constexpr int V = 16 / (int)sizeof(T);
    const int lane = threadIdx.x % 32, inner = lane % 8, low = lane / 8 % 2, high = lane / 16;
    if constexpr (ALONG_TERMS) load_matrix_x4(b, tile + V * tile_place<CHUNKS>(column + 8 * high + inner, term / V + low));
    else if constexpr (sizeof(T) == 2) load_matrix_x4_trans(b, tile + 8 * tile_place<CHUNKS>(term + 8 * low + inner, column / 8 + high));
    else {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            b[k] = __float_as_uint(tile[place_in_term<V * CHUNKS>(term + lane % 4 + k % 2 * 4, column + lane / 4 + k / 2 * 8)]);
        }
    }
    round_factors<T>(b);
}

// A warp's d[16 M][64] += a b over DEPTH terms of 16 bits, or of float32 in tf32, from `row` and `column` of the tiles on; sums lie as mma_m16n8k16
// leaves them, 8 columns in 4 registers.
template <int ROWS, int COLUMNS, int DEPTH, bool A_ALONG, bool B_ALONG, int M, typename T>
__device__ __forceinline__ void multiply_tiles(float (&d)[M][32], const T* a, const T* b, int row, int column) {
    constexpr int V = 16 / (int)sizeof(T);
#pragma unroll
    for (int term = 0; term < DEPTH; term += 32 / (int)sizeof(T)) {
        unsigned left[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) load_rows<A_ALONG, (A_ALONG ? DEPTH : ROWS) / V>(left[m], a, row + 16 * m, term);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            unsigned pair[4];
            load_columns<B_ALONG, (B_ALONG ? DEPTH : COLUMNS) / V>(pair, b, column + 16 * n, term);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const unsigned right[2] = {pair[2 * half], pair[2 * half + 1]};
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    float (&sums)[4] = reinterpret_cast<float (&)[4]>(d[m][8 * n + 4 * half]);
                    multiply_fragments<T>(sums, left[m], right);
                }
            }
        }
    }
}

template <typename T> __device__ __forceinline__ T multiply_add(T a, T b, T c) {
    if constexpr (sizeof(T) == 4) return fmaf(a, b, c);
    else return fma(a, b, c);
}

// Where a tile's element lies that threads multiply and add: rows along terms are 16 bytes longer than their DEPTH, so that 4 neighbours, which a warp
// reads at once, lie in different banks, and every place is a constant away from the thread's first.
template <bool ALONG_TERMS, int WIDTH, int DEPTH, typename T> __device__ __forceinline__ int place_in_share(int x, int term) {
    return ALONG_TERMS ? x * (DEPTH + 16 / (int)sizeof(T)) + term : term * WIDTH + x;
}
// V terms of 8 elements of a thread's share of a tile, V elements being 16 bytes: element i is number `unit` + STEP i along terms, else V neighbours
// at V * (unit + STEP i / V).
template <bool ALONG_TERMS, int WIDTH, int DEPTH, int STEP, int V, typename T>
__device__ __forceinline__ void load_share(T (&x)[8][V], const T* tile, int first, int unit, int term) {
    if constexpr (ALONG_TERMS) {
#pragma unroll
        for (int i = 0; i < 8; ++i) load<V>(tile + place_in_share<true, WIDTH, DEPTH, T>(first + unit + STEP * i, term), x[i]);
    } else {
#pragma unroll
        for (int k = 0; k < V; ++k)
#pragma unroll
            for (int i = 0; i < 8 / V; ++i) {
                T part[V];
                load<V>(tile + place_in_share<false, WIDTH, DEPTH, T>(first + V * (unit + STEP * i), term + k), part);
#pragma unroll
                for (int j = 0; j < V; ++j) x[i * V + j][k] = part[j];
            }
    }
}
// Which element of its own dim a thread's element i is, counted from the warp's first.
template <bool ALONG_TERMS, int STEP, int V> __device__ __forceinline__ int share_place(int unit, int i) {
    return ALONG_TERMS ? unit + STEP * i : V * (unit + STEP * (i / V)) + i % V;
}

// A warp's d[4 M][64] += a b over DEPTH terms in the type's own arithmetic, each thread M x 8 of it: lanes are 4 x 8.
template <int ROWS, int COLUMNS, int DEPTH, bool A_ALONG, bool B_ALONG, int M, typename T>
__device__ __forceinline__ void multiply_tiles(T (&d)[M][8], const T* a, const T* b, int row, int column) {
    constexpr int V = 16 / (int)sizeof(T), AHEAD = sizeof(T) == 8 ? 1 : DEPTH / V;  // of doubles one step's alone fit in the registers
    const int lane = threadIdx.x % 32;
#pragma unroll AHEAD
    for (int term = 0; term < DEPTH; term += V) {
        T right[8][V];
        load_share<B_ALONG, COLUMNS, DEPTH, 8, V>(right, b, column, lane % 8, term);
#pragma unroll
        for (int first = 0; first < M; first += 8) {
            T left[8][V];
            load_share<A_ALONG, ROWS, DEPTH, 4, V>(left, a, row + 4 * first, lane / 8, term);
#pragma unroll
            for (int k = 0; k < V; ++k)
#pragma unroll
                for (int i = 0; i < 8; ++i)
#pragma unroll
                    for (int j = 0; j < 8; ++j) d[first + i][j] = multiply_add(left[i][k], right[j][k], d[first + i][j]);
        }
    }
}

// Writes 16 of the warp's rows, from 16 PART on, as `stage_sums` of device/gemm.cuh does.
template <bool A_ALONG, bool B_ALONG, int PART, int M, typename T> __device__ __forceinline__ void stage_share(T* staged, const T (&d)[M][8]) {
    constexpr int V = 16 / (int)sizeof(T);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 4 * PART; i < 4 * PART + 4; ++i) {
        const int row = share_place<A_ALONG, 4, V>(lane / 8, i) - 16 * PART;
#pragma unroll
        for (int j = 0; j < 8; ++j) staged[staged_place<V>(row, share_place<B_ALONG, 8, V>(lane % 8, j))] = d[i][j];
    }
}
