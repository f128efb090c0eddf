// Copies from global to shared memory that run beside the thread (cp.async, sm_80). Source and destination are aligned to the size of the copy.
#pragma once

#ifndef DSLC_EMULATED

// Zeros are written where `valid` is false; the source is then not read.
__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_async8(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global), "r"(valid ? 8 : 0) : "memory");
}
__device__ __forceinline__ void copy_async4(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global), "r"(valid ? 4 : 0) : "memory");
}
// Closes a group of this thread's copies; copy_async_wait<N> waits until at most the N last groups are under way. Other threads need a barrier after it.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

#else

// A copy happens as late as it may: when its group is waited for. A missing wait leaves what was there before, NaNs at first.
EMULATOR_CALLED inline void copy_async(void* shared, const void* global, bool valid, int size, const char* file, int line) {
    emulator::Inside guard;
    if ((size_t)shared % size || (valid && (size_t)global % size)) emulator::fail(file, line, "cp.async: an address that is not aligned to %d bytes", size);
    if (valid) emulator::reads(global, size, EMULATOR_CODE);
    emulator::copy_issued(shared, size, EMULATOR_CODE);
    emulator::fiber->copies.push_back({shared, valid ? global : nullptr, size, emulator::fiber->groups});
}
__forceinline__ void copy_async16(void* shared, const void* global, bool valid, EMULATOR_HERE) { copy_async(shared, global, valid, 16, file, line); }
__forceinline__ void copy_async8(void* shared, const void* global, bool valid, EMULATOR_HERE) { copy_async(shared, global, valid, 8, file, line); }
__forceinline__ void copy_async4(void* shared, const void* global, bool valid, EMULATOR_HERE) { copy_async(shared, global, valid, 4, file, line); }
inline void copy_async_commit() { emulator::fiber->groups++; }
template <int N> inline void copy_async_wait() {
    emulator::Inside guard;
    auto& copies = emulator::fiber->copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].group < emulator::fiber->groups - N; done++) {
        const auto& copy = copies[done];
        if (copy.from) memcpy(copy.to, copy.from, copy.size);
        else memset(copy.to, 0, copy.size);
        emulator::copy_landed(copy.to, copy.size);
    }
    copies.erase(copies.begin(), copies.begin() + done);
}

#endif
