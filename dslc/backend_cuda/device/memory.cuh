// Elements between memory and registers, one or several neighbouring ones at once.
#pragma once

// Types that are computed as they are stored; narrow.cuh has the others.
template <typename T> __device__ __forceinline__ T decode(T x) { return x; }
template <typename T> __device__ __forceinline__ void encode(T x, T& to) { to = x; }

// A GPU takes an access of several elements at a multiple of its size alone.
#ifndef DSLC_EMULATED
template <int BYTES> __device__ __forceinline__ void check_aligned(const void*) {}
#else
template <int BYTES> __forceinline__ void check_aligned(const void* at) {
    if (emulator::checked && (size_t)at % BYTES) emulator::misaligned(at, BYTES);
}
#endif

template <int BYTES> struct Chunk;
template <> struct Chunk<1> { using type = unsigned char; };
template <> struct Chunk<2> { using type = unsigned short; };
template <> struct Chunk<4> { using type = unsigned; };
template <> struct Chunk<8> { using type = uint2; };
template <> struct Chunk<16> { using type = uint4; };

// N elements that lie behind each other, N * sizeof(T) a multiple of 16 or a power of two below; the address is a multiple of that.
template <int N, typename T, typename C> __device__ __forceinline__ void load(const T* from, C (&to)[N]) {
    constexpr int BYTES = N * (int)sizeof(T) < 16 ? N * (int)sizeof(T) : 16, COUNT = BYTES / (int)sizeof(T);
#pragma unroll
    for (int k = 0; k < N; k += COUNT) {
        check_aligned<BYTES>(from + k);
        union { typename Chunk<BYTES>::type chunk; T elements[COUNT]; } part = {*reinterpret_cast<const typename Chunk<BYTES>::type*>(from + k)};
#pragma unroll
        for (int j = 0; j < COUNT; ++j) to[k + j] = decode(part.elements[j]);
    }
}

// The same in two steps: as they lie, and from that; N * sizeof(T) is 16 or a power of two below.
template <int N, typename T> __device__ __forceinline__ typename Chunk<N * sizeof(T)>::type load_packed(const T* from) {
    check_aligned<N * (int)sizeof(T)>(from);
    return *reinterpret_cast<const typename Chunk<N * sizeof(T)>::type*>(from);
}

// Of what no launch of the program writes: the loads that may stand before the wait for the launches before. 16 bytes as they lie, and one int.
#ifndef DSLC_EMULATED
template <typename T> __device__ __forceinline__ uint4 load_steady(const T* from) {
    uint4 chunk;
    asm volatile("ld.weak.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(chunk.x), "=r"(chunk.y), "=r"(chunk.z), "=r"(chunk.w) : "l"(from));
    return chunk;
}
__device__ __forceinline__ int int_steady(const int* from) {
    int x;
    asm volatile("ld.weak.global.s32 %0, [%1];" : "=r"(x) : "l"(from));
    return x;
}
#else
template <typename T> __forceinline__ uint4 load_steady(const T* from) { return load_packed<16 / (int)sizeof(T)>(from); }
__forceinline__ int int_steady(const int* from) { return *from; }
#endif

template <typename T, int N, typename C> __device__ __forceinline__ void unpack(typename Chunk<N * sizeof(T)>::type chunk, C (&to)[N]) {
    union { typename Chunk<N * sizeof(T)>::type chunk; T elements[N]; } part = {chunk};
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = decode(part.elements[j]);
}

template <int N, typename T, typename C> __device__ __forceinline__ void store(T* to, const C (&from)[N]) {
    constexpr int BYTES = N * (int)sizeof(T) < 16 ? N * (int)sizeof(T) : 16, COUNT = BYTES / (int)sizeof(T);
#pragma unroll
    for (int k = 0; k < N; k += COUNT) {
        check_aligned<BYTES>(to + k);
        union Part { typename Chunk<BYTES>::type chunk; T elements[COUNT]; __device__ Part() {} } part;
#pragma unroll
        for (int j = 0; j < COUNT; ++j) encode(from[k + j], part.elements[j]);
        *reinterpret_cast<typename Chunk<BYTES>::type*>(to + k) = part.chunk;
    }
}

// The first `have` of N neighbouring elements: those behind are 0 when loaded, and not stored. One access where all are there.
template <int N, typename T, typename C> __device__ __forceinline__ void load_some(const T* from, int have, C (&to)[N]) {
    if (have >= N) return load<N>(from, to);
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = k < have ? C(decode(from[k])) : C();
}

template <typename T, typename C> __device__ __forceinline__ void store(T* to, C from) {
    T element;
    encode(from, element);
    *to = element;
}

template <int N, typename T, typename C> __device__ __forceinline__ void store_some(T* to, int have, const C (&from)[N]) {
    if (have >= N) return store<N>(to, from);
#pragma unroll
    for (int k = 0; k < N; ++k)
        if (k < have) store(to + k, from[k]);
}
