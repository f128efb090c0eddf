// The keyed generator Philox4x32-10 (Salmon et al., SC 2011), counter and output as dslc/core/philox.py lays down.
#pragma once

__device__ __forceinline__ uint4 philox(long long seed, int counter, int turn, unsigned stream, long long index) {
    unsigned c0 = (unsigned)index, c1 = (unsigned)((unsigned long long)index >> 32) + (unsigned)turn, c2 = stream, c3 = (unsigned)counter;
    unsigned k0 = (unsigned)seed, k1 = (unsigned)((unsigned long long)seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// In [0, 1), exact.
__device__ __forceinline__ float draw_uniform(uint4 words) { return (float)(words.x >> 8) * 5.9604644775390625e-8f; }

// In [low, low + range).
__device__ __forceinline__ int draw_integer(uint4 words, int low, unsigned range) { return (int)((unsigned)low + __umulhi(words.x, range)); }

// sqrt(-2 ln u1) cos(2 pi u2), Box and Muller; u1 in (0, 1].
__device__ __forceinline__ float draw_normal(uint4 words) {
    const float u1 = (float)((words.x >> 8) + 1u) * 5.9604644775390625e-8f, u2 = (float)(words.y >> 8) * 5.9604644775390625e-8f;
    return sqrtf(-2.0f * logf(u1)) * cospif(2.0f * u2);
}
