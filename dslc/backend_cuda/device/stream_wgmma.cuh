// Streaming kernels on Hopper: weights on their way from the sums of one product to the first operand of the next.
#pragma once
#include "device/stream_mma.cuh"
#include "device/wgmma.cuh"

// 64 rows of weights, which lie as wgmma leaves sums, rounded: a[k] are the weights of 16 terms, in tf32 of 8: as its terms t and t + 4 a thread, of
// lane 4 g + t, then has columns 2t and 2t + 1.
template <typename T, int R> __device__ __forceinline__ void pack_weights(unsigned (&a)[R * sizeof(T) / 16][4], const float (&d)[R]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int k = 0; k < R / 4; ++k)
#pragma unroll
            for (int u = 0; u < 4; ++u) a[k][u] = __float_as_uint(nearest_tf32(d[4 * k + u % 2 * 2 + u / 2]));
    } else {
#pragma unroll
        for (int k = 0; k < R / 8; ++k)
#pragma unroll
            for (int u = 0; u < 4; ++u) a[k][u] = packed<T>(d[8 * k + 2 * u], d[8 * k + 2 * u + 1]);
    }
}

// What rounding took from them, rounded.
template <typename T, int R> __device__ __forceinline__ void pack_rests(unsigned (&a)[R / 8][4], const float (&d)[R]) {
#pragma unroll
    for (int k = 0; k < R / 8; ++k)
#pragma unroll
        for (int u = 0; u < 4; ++u) {
            const float low = d[8 * k + 2 * u], high = d[8 * k + 2 * u + 1];
            a[k][u] = packed<T>(low - rounded_to<T>(low), high - rounded_to<T>(high));
        }
}
