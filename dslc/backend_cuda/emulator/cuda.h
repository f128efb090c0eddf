// CUDA C++ for g++: the keywords, the built-in variables, and the emulator behind them. NVIDIA's own headers give the vector and the 16-bit types.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __restrict__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ constinit static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define DSLC_EMULATED 1

#include "fiber.h"
#include "collectives.h"
#include "warpgroup.h"
#include "intrinsics.h"
#include "launch.h"

#define threadIdx (emulator::fiber->index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->shape)
#define gridDim (emulator::block->grid)
constexpr int warpSize = 32;
