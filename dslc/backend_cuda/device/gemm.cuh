// Pieces of matrix products: the order of tiles, and sums on their way from a tensor core's registers to rows in memory.
#pragma once
#include "device/memory.cuh"

struct TilePlace { int row, column; };

// Tile number `tile` of a grid of rows x columns of tiles: `group` rows of tiles are walked together, column by column, so that tiles that are made at
// one time share operands in the L2 cache.
__device__ __forceinline__ TilePlace grouped_tile(int tile, int rows, int columns, int group) {
    const int first = tile / (group * columns) * group;
    const int height = rows - first < group ? rows - first : group;
    const int rest = tile % (group * columns);
    return {first + rest % height, rest / height};
}

// A warp's 16 rows of 64 columns of sums in shared memory: chunks of V sums, 16 bytes, exchanged so that the accesses below meet no conflicts where
// sums are floats: writes of 8 bytes, 2 chunks in each of 4 rows; reads of 16 bytes, every or every other chunk of a row.
template <int V> __device__ __forceinline__ int staged_place(int row, int column) {
    const int chunk = column / V;
    return row * 64 + ((chunk ^ chunk / 8 % 2 ^ row % 4 * 2) * V | column % V);
}

// Writes 64 columns of a warp's sums, which lie as wgmma and mma_m16n8k16 leave them: 8 columns in 4 registers, from register FIRST on.
template <int FIRST, int R> __device__ __forceinline__ void stage_sums(float* tile, const float (&d)[R]) {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        *reinterpret_cast<float2*>(tile + staged_place<4>(row, 8 * j + column)) = make_float2(d[FIRST + 4 * j], d[FIRST + 4 * j + 1]);
        *reinterpret_cast<float2*>(tile + staged_place<4>(row + 8, 8 * j + column)) = make_float2(d[FIRST + 4 * j + 2], d[FIRST + 4 * j + 3]);
    }
}

// W neighbouring columns of a staged row, from a multiple of W on.
template <int W, typename T> __device__ __forceinline__ void load_staged(const T* tile, int row, int column, T (&x)[W]) {
    constexpr int V = 16 / (int)sizeof(T), N = W < V ? W : V;
#pragma unroll
    for (int k = 0; k < W; k += N) {
        T part[N];
        load<N>(tile + staged_place<V>(row, column + k), part);
#pragma unroll
        for (int j = 0; j < N; ++j) x[k + j] = part[j];
    }
}
