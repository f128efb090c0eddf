// Arithmetic that C++ lacks or leaves open: the primitives of dslc/ir/scalar.py. Nothing here is contracted: kernels are compiled without fmad.
#pragma once

__device__ __forceinline__ float infinity_f32() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ double infinity_f64() { return __longlong_as_double(0x7ff0000000000000LL); }
__device__ __forceinline__ float nan_f32() { return __int_as_float(0x7fc00000); }
__device__ __forceinline__ double nan_f64() { return __longlong_as_double(0x7ff8000000000000LL); }

// Integers of 32 and 64 bits wrap around.
__device__ __forceinline__ int wrapping_add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
__device__ __forceinline__ int wrapping_subtract(int a, int b) { return (int)((unsigned)a - (unsigned)b); }
__device__ __forceinline__ int wrapping_multiply(int a, int b) { return (int)((unsigned)a * (unsigned)b); }
__device__ __forceinline__ long long wrapping_add(long long a, long long b) { return (long long)((unsigned long long)a + (unsigned long long)b); }
__device__ __forceinline__ long long wrapping_subtract(long long a, long long b) { return (long long)((unsigned long long)a - (unsigned long long)b); }
__device__ __forceinline__ long long wrapping_multiply(long long a, long long b) { return (long long)((unsigned long long)a * (unsigned long long)b); }
__device__ __forceinline__ signed char wrap_int4(int x) { return (signed char)(((x & 15) ^ 8) - 8); }

// The lesser and the greater of two; NaN where either is NaN.
template <typename T> __device__ __forceinline__ T minimum(T a, T b) { return a != a ? a : (a < b ? a : b); }
template <typename T> __device__ __forceinline__ T maximum(T a, T b) { return a != a ? a : (a > b ? a : b); }
#ifndef DSLC_EMULATED
__device__ __forceinline__ float minimum(float a, float b) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
__device__ __forceinline__ float maximum(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#endif

// -1, 0 or 1; NaN stays NaN.
template <typename T> __device__ __forceinline__ T sign_of(T a) { return a != a ? a : (T)((a > (T)0) - (a < (T)0)); }

// Division of integers that rounds down; by 0 it gives 0.
template <typename T> __device__ __forceinline__ T floor_divide(T a, T b) {
    if (b == (T)0) return (T)0;
    if (b == (T)-1 && (T)-1 < (T)0) return (T)(0 - (unsigned long long)a);  // the least integer has no negative
    const T q = (T)(a / b);
    return (T)(q - ((T)(a % b) != (T)0 && ((a < (T)0) != (b < (T)0))));
}

// a - b * floor(a / b), with the divisor's sign; by 0 it gives 0.
template <typename T> __device__ __forceinline__ T floor_modulo(T a, T b) {
    if (b == (T)0 || (b == (T)-1 && (T)-1 < (T)0)) return (T)0;
    const T r = (T)(a % b);
    return (T)(r != (T)0 && ((r < (T)0) != (b < (T)0)) ? r + b : r);
}
__device__ __forceinline__ double floor_modulo(double a, double b) {
    const double r = fmod(a, b);  // exact
    return r != 0.0 && ((r < 0.0) != (b < 0.0)) ? r + b : r;
}
__device__ __forceinline__ float floor_modulo(float a, float b) {
    const float r = fmodf(a, b);
    return r != 0.0f && ((r < 0.0f) != (b < 0.0f)) ? r + b : r;
}

// a to the power of b by squaring, wrapping around; negative exponents count as 0.
template <typename T> __device__ __forceinline__ T integer_power(T a, T b) {
    unsigned long long power = 1, base = (unsigned long long)a;
    for (unsigned long long rest = b < (T)0 ? 0 : (unsigned long long)b; rest; rest >>= 1) {
        if (rest & 1) power *= base;
        base *= base;
    }
    return (T)power;
}

// Shifts of a type of BITS bits: by that many or more, or by a negative number, they give 0, or the sign.
template <int BITS, typename T> __device__ __forceinline__ T shift_left(T a, T b) {
    return (unsigned long long)b < BITS ? (T)((unsigned long long)a << (unsigned long long)b) : (T)0;
}
template <int BITS, typename T> __device__ __forceinline__ T shift_right(T a, T b) {
    return (T)(a >> ((unsigned long long)b < BITS ? (int)b : BITS - 1) >> ((unsigned long long)b < BITS || (T)-1 < (T)0 ? 0 : 1));
}

// 2 to the power of x, within 2 units in the last place of float32; what is below the least normal number is 0.
#ifndef DSLC_EMULATED
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#else
inline float power_of_two(float x) {
    const float y = std::exp2(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}
#endif

// A running maximum as it enters an exponent: 0 as long as nothing was seen.
__device__ __forceinline__ float finite_maximum(float x) { return x == -infinity_f32() ? 0.0f : x; }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// Functions for what is rounded to 16 bits in the end (`trace.narrowed`): at most 2^-15 of the result off, a sixteenth of that rounding or less, in a
// third of the instructions. Results that are no normal floats are 0, or infinite.
#ifndef DSLC_EMULATED
__device__ __forceinline__ float reciprocal_near(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#else
inline float reciprocal_near(float x) { return 1.0f / x; }
#endif
// Of a difference that was rounded, as of logits and their maximum, it is off by no more than that rounding and 2 units in the last place of the result.
__device__ __forceinline__ float exp_near(float x) { return power_of_two(x * 1.44269504f); }
__device__ __forceinline__ float sigmoid_near(float x) { return reciprocal_near(1.0f + exp_near(-x)); }
__device__ __forceinline__ float one_plus_tanh(float x) { return 2.0f * reciprocal_near(1.0f + exp_near(-2.0f * x)); }
// erfc(|x|) = exp(-x^2) P(s), s = 1 / (1 + p |x|), after Abramowitz and Stegun 7.1.26, with a P that is at most 6e-6 of erfc off everywhere.
__device__ __forceinline__ float one_plus_erf(float x) {
    const float s = reciprocal_near(fmaf(fabsf(x), 0.44197525f, 1.0f));
    float p = fmaf(s, -0.14399113f, 0.3383609f);
    p = fmaf(s, p, 0.051543523f);
    p = fmaf(s, p, 0.25991407f);
    p = fmaf(s, p, 0.24455468f);
    p = fmaf(s, p, 0.24961208f);
    const float tail = p * s * exp_near(-(x * x));
    return x < 0.0f ? tail : 2.0f - tail;
}

// An index from data in 32 bits: one that is far outside every tensor stays outside.
__device__ __forceinline__ int near_index(long long i) {
    const long long most = 0x7ff00000;
    return (int)(i > most ? most : i < -most ? -most : i);
}
__device__ __forceinline__ int near_index(unsigned long long i) { return (int)(i > 0x7ff00000 ? 0x7ff00000 : i); }
// Integer division by a positive constant where the dividend may be negative.
template <typename T> __device__ __forceinline__ T divide_down(T a, T b) { return (a >= 0 ? a : a - (b - 1)) / b; }
template <typename T> __device__ __forceinline__ T modulo_down(T a, T b) { return a - divide_down(a, b) * b; }

// Whether b, at place j, beats a at place i: NaN beats all, of equals the earlier place does.
template <typename T> __device__ __forceinline__ bool better_argmax(T a, int i, T b, int j) {
    return b != b ? (a == a || j < i) : a == a && (b > a || (b == a && j < i));
}
template <typename T> __device__ __forceinline__ bool better_argmin(T a, int i, T b, int j) {
    return b != b ? (a == a || j < i) : a == a && (b < a || (b == a && j < i));
}
