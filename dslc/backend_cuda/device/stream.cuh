// Register tiles of streams (attention): 16 neighbouring lanes share rows of x, and have the rows of y, or the features, among them.
#pragma once
#include "device/math.cuh"

// s[i][j] += sum over c of x[i * GROUPS][c] * y[j * 16][c], c below TERMS, a multiple of 4; rows lie STRIDE floats apart, STRIDE / 4 odd, so that
// the rows of 8 lanes lie in different banks.
template <int GROUPS, int TERMS, int STRIDE, int ROWS, int COLUMNS>
__device__ __forceinline__ void add_products_of_rows(float (&s)[ROWS][COLUMNS], const float* x, const float* y) {
#pragma unroll 2
    for (int c = 0; c < TERMS; c += 4) {
        float b[COLUMNS][4];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) load<4>(y + j * 16 * STRIDE + c, b[j]);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            float a[4];
            load<4>(x + i * GROUPS * STRIDE + c, a);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) s[i][j] = fmaf(a[e], b[j][e], s[i][j]);
            }
        }
    }
}

// o[i][f * WIDTH + e] += sum over y of p[i * GROUPS][y] * v[y][feature of (f, e)], y below POINTS, a multiple of 4. Lanes hold chunks of WIDTH
// features, 16 * WIDTH apart; what lies behind the last one is read as it.
template <int GROUPS, int POINTS, int P_STRIDE, int V_STRIDE, int FEATURES, int WIDTH, int ROWS, int HELD>
__device__ __forceinline__ void add_weighted_rows(float (&o)[ROWS][HELD], const float* p, const float* v, int lane) {
#pragma unroll 1
    for (int y = 0; y < POINTS; y += 4) {
        float weights[ROWS][4];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) load<4>(p + i * GROUPS * P_STRIDE + y, weights[i]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int f = 0; f < HELD / WIDTH; ++f) {
                float part[WIDTH];
                load<WIDTH>(v + (y + k) * V_STRIDE + min((f * 16 + lane) * WIDTH, FEATURES - WIDTH), part);
#pragma unroll
                for (int i = 0; i < ROWS; ++i) {
#pragma unroll
                    for (int e = 0; e < WIDTH; ++e) o[i][f * WIDTH + e] = fmaf(weights[i][k], part[e], o[i][f * WIDTH + e]);
                }
            }
        }
    }
}

// Folds over 16 neighbouring lanes, a butterfly in which each gets the same bits.
__device__ __forceinline__ float sum_of_16_lanes(float x) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
__device__ __forceinline__ float max_of_16_lanes(float x) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) x = maximum(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}
__device__ __forceinline__ float min_of_16_lanes(float x) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) x = minimum(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}
