// Floats of 16 and 8 bits: in registers they are float32 values that the narrow type holds exactly.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

__device__ __forceinline__ float decode(__half x) { return __half2float(x); }
__device__ __forceinline__ float decode(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float decode(__nv_fp8_e4m3 x) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.__x, __NV_E4M3))); }
__device__ __forceinline__ float decode(__nv_fp8_e5m2 x) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.__x, __NV_E5M2))); }

__device__ __forceinline__ void encode(float x, __half& to) { to = __float2half_rn(x); }
__device__ __forceinline__ void encode(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void encode(float x, __nv_fp8_e4m3& to) { to.__x = __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3); }
__device__ __forceinline__ void encode(float x, __nv_fp8_e5m2& to) { to.__x = __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2); }

template <typename T> __device__ __forceinline__ float rounded_to(float x) {
    T narrow;
    encode(x, narrow);
    return decode(narrow);
}
__device__ __forceinline__ float round_to_float16(float x) { return rounded_to<__half>(x); }
#ifndef DSLC_EMULATED
// Of a pair whose lower half is 0 the bits are those of the float32 value; conversions of pairs run at four times the rate of single ones (sm_90).
__device__ __forceinline__ float round_to_bfloat16(float x) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(x), "f"(0.0f));
    return __uint_as_float(pair);
}
#else
__device__ __forceinline__ float round_to_bfloat16(float x) { return rounded_to<__nv_bfloat16>(x); }
#endif
__device__ __forceinline__ float round_to_float8_e4m3(float x) { return rounded_to<__nv_fp8_e4m3>(x); }
__device__ __forceinline__ float round_to_float8_e5m2(float x) { return rounded_to<__nv_fp8_e5m2>(x); }
