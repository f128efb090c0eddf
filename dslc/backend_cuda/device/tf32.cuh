// float32 with the 10 bits of mantissa that tensor cores multiply; they ignore the 13 bits below.
#pragma once

// The nearest such value, ties away from zero.
#ifndef DSLC_EMULATED

__device__ __forceinline__ float nearest_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

#else

inline float nearest_tf32(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    if (x != x) bits = 0x7fffffff;
    else bits = (bits + 0x1000) & 0xffffe000;
    memcpy(&x, &bits, 4);
    return x;
}

#endif
