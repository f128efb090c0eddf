// Blocks that share a launch among groups of work.
#pragma once

// The place of the last of `count` ascending numbers that is not above x; the first one is not. All threads of a block call it.
__device__ __forceinline__ int last_up_to(const int* numbers, int count, int x) {
    int found = -1;
    for (int first = 0; first < count; first += blockDim.x) {
        const int k = first + threadIdx.x;
        found += __syncthreads_count(k < count && numbers[k] <= x);
    }
    return found;
}
