// float32 with 10 bits of mantissa, which tensor cores multiply; they ignore the 13 bits below.
#pragma once

#ifndef DSLC_EMULATED

// The nearest such value, ties away from zero.
__device__ __forceinline__ float nearest_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}
// d[16][8] += a[16][8] b[8][8], of one warp; g = lane / 4 and t = lane % 4. a: (row g, column t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b: (row t,
// column g), (t + 4, g); d as of mma_m16n8k16.
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

inline float nearest_tf32(float x) {
    if (x != x) return __uint_as_float(0x7fffffff);
    return __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000);
}
// As the copy engine rounds: ties to the even one.
inline float copied_as_tf32(float x) {
    const unsigned bits = __float_as_uint(x);
    return x != x ? __uint_as_float(0x7fffffff) : __uint_as_float((bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000);
}
inline float cut_to_tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000); }
// Products are exact in double; a sum is rounded once (a GPU's order of addition is not specified).
inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMULATOR_HERE) {
    struct Operands { unsigned a[4], b[2]; float* d; } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, d};
    emulator::collective(~0u, 35, &mine, [](Operands** lane, unsigned) EMULATOR_UNSEEN {
        double left[16][8], right[8][8];  // by row, or column, and term
        for (int i = 0; i < 32; i++) {
            for (int k = 0; k < 4; k++) left[i / 4 + k % 2 * 8][i % 4 + k / 2 * 4] = cut_to_tf32(lane[i]->a[k]);
            for (int k = 0; k < 2; k++) right[i / 4][i % 4 + k * 4] = cut_to_tf32(lane[i]->b[k]);
        }
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                float& sum = lane[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
                double total = sum;
                for (int k = 0; k < 8; k++) total += left[row][k] * right[column][k];
                sum = (float)total;
            }
    }, file, line);
}

#endif
