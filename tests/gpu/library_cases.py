"""A case for every function of the device library: a kernel that calls it, and operands.

What a kernel gives is compared between a GPU and the emulator, so operands need no meaning: tiles are whatever lies in memory. Beside these stand
kernels of the emulator's own tests, which hold what the library rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from backend_cuda.emulator import test_async, test_core, test_mma

from dslc.core.executable import TensorMap

from .devices import Kernels, Mapped

BF16, E4M3, E5M2 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
RANDOM = np.random.default_rng(0)
TYPES = {"float": np.float32, "__half": np.float16, "__nv_bfloat16": BF16, "__nv_fp8_e4m3": E4M3, "__nv_fp8_e5m2": E5M2, "double": np.float64}


@dataclass(frozen=True)
class Case:
    """A launch of `grid` blocks of `block` threads, its arrays the last of which are results. `near`: results are the same within this, relative and
    absolute; 0: to the bit. `hopper`: sm_90a alone has it."""

    kernels: Kernels
    symbol: str
    grid: int
    block: int
    parameters: tuple[Any, ...]
    near: float = 0.0
    shared: int = 0
    hopper: bool = False


def drawn(dtype: Any, *shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def kernel(name: str, parameters: str, body: str, bounds: str = "") -> str:
    return f'extern "C" __global__ void {bounds}{name}({parameters}) {{\n{body}\n}}\n'


def listed(name: str, parameters: str, values: list[str], target: str) -> str:
    """A kernel in which a thread writes values, each to a row of its own; `a` and `b` are neighbours, `i` the thread."""
    body = "".join(f"    {target}[{k} * 256 + i] = {v};\n" for k, v in enumerate(values))
    return kernel(name, parameters, f"    const int i = threadIdx.x;\n    const auto a = x[i], b = x[(i + 1) % 256];\n{body}")


FLOATS = [
    "infinity_f32()", "nan_f32()", "minimum(a, b)", "maximum(a, b)", "sign_of(a)", "floor_modulo(a, b)", "round_to_float16(a)",
    "round_to_bfloat16(a)", "round_to_float8_e4m3(a)", "round_to_float8_e5m2(a)", "(float)better_argmax(a, i, b, i ^ 1)",
    "(float)better_argmin(a, i, b, i ^ 1)",
    "draw_uniform(philox(seed, 7, 1, 0x9abcdef0u, (long long)i << 33 | 5))", "decode(a)",
]  # fmt: skip
NEAR_FLOATS = [
    "sigmoid(a)", "draw_normal(philox(11, i, 0, 2u, i))", "power_of_two(a)", "exp_near(a)", "reciprocal_near(1.0f + a * a)", "sigmoid_near(a)",
    "one_plus_tanh(a)", "one_plus_erf(a)",
]  # fmt: skip
DOUBLES = ["infinity_f64()", "nan_f64()", "minimum(a, b)", "maximum(a, b)", "sign_of(a)", "floor_modulo(a, b)"]
INTEGERS = [
    "wrapping_add(a, b)", "wrapping_subtract(a, b)", "wrapping_multiply(a, b)", "wrap_int4(a)", "minimum(a, b)", "maximum(a, b)", "sign_of(a)",
    "floor_divide(a, b)", "floor_modulo(a, b)", "integer_power(a, b % 9)", "shift_left<32>(a, b % 70)", "shift_right<32>(a, b % 70)",
    "divide_down(a, 7)", "modulo_down(a, 7)", "draw_integer(philox(a, b, i, 3u, i), -5, 11u)", "better_argmax(a, i, b, i ^ 1)",
    "int_steady(x + i)",
]  # fmt: skip
LONG = ["wrapping_add(a, b)", "wrapping_subtract(a, b)", "wrapping_multiply(a, b)", "floor_divide(a, b)", "floor_modulo(a, b)",
        "shift_right<64>(a, b % 70)", "(long long)near_index(a)", "(long long)near_index((unsigned long long)a)", "modulo_down(a, 9LL)"]  # fmt: skip
NARROW = ("__half", "__nv_bfloat16", "__nv_fp8_e4m3", "__nv_fp8_e5m2", "float")
MOVED = r"""
template <typename T> __device__ __forceinline__ void moved(const T* x, T* y, int have) {
    constexpr int N = 16 / (int)sizeof(T);
    const int at = N * threadIdx.x, all = 32 * N;
    float part[N];
    load<N>(x + at, part);
    store<N>(y + at, part);
    unpack<T>(load_packed<N>(x + at), part);
    for (int k = 0; k < N; ++k) store(y + all + at + k, part[k]);
    load_some<N>(x + at, min(have - at, N), part);
    for (int k = 0; k < N; ++k) part[k] += 1.0f;
    store_some<N>(y + 2 * all + at, min(have - at, N), part);
    unpack<T>(load_steady(x + at), part);
    store<N>(y + 3 * all + at, part);
}
"""
SCALARS = Kernels(
    "".join(f'#include "device/{name}.cuh"\n' for name in ("math", "memory", "narrow", "philox", "groups"))
    + MOVED
    + listed("floats", "const float* x, float* y, int seed", FLOATS, "y")
    + listed("doubles", "const double* x, double* y", DOUBLES, "y")
    + listed("integers", "const int* x, int* y", INTEGERS, "y")
    + listed("long_integers", "const long long* x, long long* y", LONG, "y")
    + listed("near_floats", "const float* x, float* y", NEAR_FLOATS, "y")
    + listed("near_doubles", "const double* x, double* y", ["sigmoid(a)"], "y")
    + kernel(
        "group_places",
        "const int* x, int* y",
        "    const int found = last_up_to(x, 100, 7 * blockIdx.x);\n    y[blockIdx.x * 64 + threadIdx.x] = found;",
    )
    + "".join(kernel(f"moved{k}", f"const {t}* x, {t}* y, int have", f"    moved<{t}>(x, y, have);") for k, t in enumerate(NARROW)),
    ("floats", "doubles", "integers", "long_integers", "near_floats", "near_doubles", "group_places", *(f"moved{k}" for k in range(len(NARROW)))),
)

STREAMS = Kernels(
    r"""
#include "device/math.cuh"
#include "device/memory.cuh"
#include "device/stream.cuh"
#include "device/stream_rows.cuh"
extern "C" __global__ void rows_of_lanes(const float* x, const float* y, float* out) {
    const int lane = threadIdx.x % 16, group = threadIdx.x / 16;
    float s[2][2] = {}, o[2][4] = {};
    add_products_of_rows<2, 8, 12>(s, x + group * 12, y + lane * 12);
    add_weighted_rows<2, 8, 12, 32, 32, 2>(o, x + group * 12, y, lane);
    for (int i = 0; i < 4; ++i) out[i * 32 + threadIdx.x] = s[i / 2][i % 2];
    for (int i = 0; i < 8; ++i) out[(4 + i) * 32 + threadIdx.x] = o[i / 4][i % 4];
}
extern "C" __global__ void folds_of_lanes(const float* x, float* out) {
    const float a = x[threadIdx.x];
    out[threadIdx.x] = sum_of_16_lanes(a);
    out[32 + threadIdx.x] = max_of_16_lanes(a);
    out[64 + threadIdx.x] = min_of_16_lanes(a);
    out[96 + threadIdx.x] = finite_maximum(threadIdx.x % 2 ? a : -infinity_f32());
}
extern "C" __global__ void few_rows(const float* x, float* out) {
    float a[2][4], b[3][4], s[2][3], o[2][4] = {};
    for (int i = 0; i < 2; ++i) load<4>(x + 4 * (i * 32 + threadIdx.x), a[i]);
    for (int j = 0; j < 3; ++j) load<4>(x + 4 * ((2 + j) * 32 + threadIdx.x), b[j]);
    products_of_lanes<8>(s, a, b);
    add_weighted(o, s, b);
    for (int i = 0; i < 6; ++i) out[i * 32 + threadIdx.x] = s[i / 3][i % 3];
    for (int i = 0; i < 8; ++i) out[(6 + i) * 32 + threadIdx.x] = o[i / 4][i % 4];
}
""",
    ("rows_of_lanes", "folds_of_lanes", "few_rows"),
)

# a: [32][32], b: [64][32], c: [32][64]; the tiles lie along the terms or not.
TILE_PARTS = r"""
#include "device/memory.cuh"
#include "device/async.cuh"
#include "device/tiles.cuh"
#include "device/stream_mma.cuh"
template <typename T, bool ALONG, int SIZE, bool TENSOR> __device__ __forceinline__ int place(int x, int term) {
    constexpr int V = 16 / (int)sizeof(T);
    if (!TENSOR) return place_in_share<ALONG, SIZE, 32, T>(x, term);
    if (ALONG) return V * tile_place<32 / V>(x, term / V) + term % V;
    if (sizeof(T) == 4) return place_in_term<SIZE>(term, x);
    return V * tile_place<SIZE / V>(term, x / V) + x % V;
}
template <typename T, bool A, bool B, bool TENSOR> __device__ __forceinline__ void fill(T* left, T* right, const T* a, const T* b) {
    for (int p = threadIdx.x; p < 32 * 32; p += 32) left[place<T, A, 32, TENSOR>(p / 32, p % 32)] = a[p];
    for (int p = threadIdx.x; p < 64 * 32; p += 32) right[place<T, B, 64, TENSOR>(p / 32, p % 32)] = b[p];
    __syncthreads();
}
template <typename T, bool A, bool B> __device__ __forceinline__ void tensor(const T* a, const T* b, float* c) {
    __shared__ __align__(1024) T left[32 * 40];
    __shared__ __align__(1024) T right[32 * 72];
    __shared__ __align__(1024) float staged[16 * 64];
    fill<T, A, B, true>(left, right, a, b);
    float d[2][32] = {};
    multiply_tiles<32, 64, 32, A, B>(d, left, right, 0, 0);
    for (int m = 0; m < 2; ++m) {
        if (m) stage_sums<0>(staged, d[1]); else stage_sums<0>(staged, d[0]);
        __syncthreads();
        for (int p = threadIdx.x; p < 16 * 16; p += 32) {
            float part[4];
            load_staged<4>(staged, p / 16, p % 16 * 4, part);
            store<4>(c + m * 1024 + 4 * p, part);
        }
        __syncthreads();
    }
}
template <typename T, bool A, bool B> __device__ __forceinline__ void plain(const T* a, const T* b, T* c) {
    __shared__ __align__(1024) T left[32 * 36];
    __shared__ __align__(1024) T right[64 * 36];
    __shared__ __align__(1024) T staged[16 * 64];
    fill<T, A, B, false>(left, right, a, b);
    T d[8][8] = {};
    multiply_tiles<32, 64, 32, A, B>(d, left, right, 0, 0);
    for (int half = 0; half < 2; ++half) {
        if (half) stage_share<A, B, 1>(staged, d); else stage_share<A, B, 0>(staged, d);
        __syncthreads();
        for (int p = threadIdx.x; p < 16 * 16; p += 32) {
            T part[4];
            load_staged<4>(staged, p / 16, p % 16 * 4, part);
            store<4>(c + half * 1024 + 4 * p, part);
        }
        __syncthreads();
    }
}
// x and y: 16 rows of 128 bytes; p: the weights of 16 x 16; out: scores, then x p with p rounded and with its rest.
template <typename T> __device__ __forceinline__ void streamed(const uint4* x, const uint4* y, const float* p, float* out) {
    __shared__ __align__(1024) uint4 rows[16 * 8];
    __shared__ __align__(1024) uint4 columns[16 * 8];
    for (int k = threadIdx.x; k < 128; k += 32) {
        rows[chunk_place<8>(k / 8, k % 8)] = x[k];
        columns[chunk_place<8>(k / 8, k % 8)] = y[k];
    }
    __syncthreads();
    float s[1][2][4] = {}, weights[1][2][4], o[2][1][2][4] = {};
    for (int k = 0; k < 8; ++k) weights[0][k / 4][k % 4] = p[8 * threadIdx.x + k];
    multiply_rows_mma<T, 8, 3>(s, rows, columns, 0);
    if constexpr (sizeof(T) == 4) {
        multiply_weights_tf32<8>(o[0], weights, columns);
    } else {
        multiply_weights_mma<T, 8, true>(o[0], weights, columns);
        multiply_weights_mma<T, 8, false>(o[1], weights, columns);
    }
    for (int k = 0; k < 8; ++k) {
        out[k * 32 + threadIdx.x] = s[0][k / 4][k % 4];
        out[(8 + k) * 32 + threadIdx.x] = o[0][0][k / 4][k % 4];
        out[(16 + k) * 32 + threadIdx.x] = o[1][0][k / 4][k % 4];
    }
}
extern "C" __global__ void tile_walk(int* y) {
    const TilePlace place = grouped_tile(threadIdx.x, 13, 9, 4);
    y[2 * threadIdx.x] = place.row;
    y[2 * threadIdx.x + 1] = place.column;
}
extern "C" __global__ void powers(const float* x, float* y) { y[threadIdx.x] = power_of_two(x[threadIdx.x]); }
extern "C" __global__ void copied_in_eights(const float* x, float* y) {
    __shared__ __align__(16) float tile[64];
    copy_async8(tile + 2 * threadIdx.x, x + 2 * threadIdx.x, threadIdx.x % 3 != 0);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x], y[32 + threadIdx.x] = tile[31 - threadIdx.x];
}
"""
LAYOUTS = {"along": ("true", "true"), "across": ("false", "false")}
TENSOR = [(f"tensor_{k}_{how}", t, how) for k, t in enumerate(("__half", "__nv_bfloat16", "float")) for how in LAYOUTS]
PLAIN = [(f"plain_{t}_{how}", t, how) for t in ("float", "double") for how in LAYOUTS]
STREAMED = [(f"streamed{k}", t) for k, t in enumerate(("__half", "__nv_bfloat16", "float"))]
TILES = Kernels(
    TILE_PARTS
    + "".join(kernel(n, f"const {t}* a, const {t}* b, float* c", f"    tensor<{t}, {', '.join(LAYOUTS[how])}>(a, b, c);") for n, t, how in TENSOR)
    + "".join(kernel(n, f"const {t}* a, const {t}* b, {t}* c", f"    plain<{t}, {', '.join(LAYOUTS[how])}>(a, b, c);") for n, t, how in PLAIN)
    + "".join(kernel(n, "const uint4* x, const uint4* y, const float* p, float* out", f"    streamed<{t}>(x, y, p, out);") for n, t in STREAMED),
    ("tile_walk", "powers", "copied_in_eights", *(n for n, *_ in TENSOR), *(n for n, *_ in PLAIN), *(n for n, _ in STREAMED)),
)

# Two steps of 32 bytes of terms. What the products read is what lies in `x`: 64 rows of 128 bytes, then those of the second operand.
HOPPER_PARTS = r"""
#include "device/memory.cuh"
#include "device/stream_wgmma.cuh"
#include "device/launch.cuh"
template <typename T> __device__ __forceinline__ const T* tiles_of(const uint4* x, int rows) {
    extern __shared__ __align__(1024) unsigned char memory[];
    for (int p = threadIdx.x; p < 8 * rows; p += 128) reinterpret_cast<uint4*>(memory)[p] = x[p];
    fence_shared_async();
    __syncthreads();
    return reinterpret_cast<const T*>(memory);
}
template <int R> __device__ __forceinline__ void written(float* y, const float (&d)[R]) {
#pragma unroll
    for (int i = 0; i < R; ++i) y[i * 128 + threadIdx.x] = d[i];
}
template <typename T, int N, bool A, bool B> __device__ __forceinline__ void product(const uint4* x, float* y) {
    const T* tiles = tiles_of<T>(x, 64 + N);
    const unsigned long long a = matrix_descriptor(tiles, 1024, 1024), b = matrix_descriptor(tiles + 64 * 128 / sizeof(T), 4096, 1024);
    float d[N / 2];
    wgmma_fence();
    wgmma<A, B>(d, a, b, 0, T());
    wgmma<A, B>(d, a + (A ? 128 : 2), b + (B ? 128 : 2), 1, T());
    wgmma_commit();
    wgmma_wait<0>();
    written(y, d);
}
template <typename T, int N, bool B> __device__ __forceinline__ void from_registers(const uint4* x, const float* p, float* y) {
    const T* tiles = tiles_of<T>(x, 64 + N);
    const unsigned long long b = matrix_descriptor(tiles + 64 * 128 / sizeof(T), 4096, 1024);
    float weights[16], d[N / 2];
    for (int k = 0; k < 16; ++k) weights[k] = p[16 * threadIdx.x + k];
    unsigned a[sizeof(T)][4], rest[2][4];
    pack_weights<T>(a, weights);
    if constexpr (sizeof(T) == 2) pack_rests<T>(rest, weights);
    wgmma_fence();
    wgmma_registers<B>(d, a[0], b, 0, T());
    wgmma_registers<B>(d, a[1], b + (B ? 128 : 2), 1, T());
    if constexpr (sizeof(T) == 2) wgmma_registers<B>(d, rest[1], b + (B ? 128 : 2), 1, T());
    wgmma_commit();
    wgmma_wait<0>();
    written(y, d);
}
// A box of 2048 bytes; one coordinate is outside, of rank 4 also the first and the last of those that it steps to.
template <int RANK> __device__ __forceinline__ void boxed(const TensorMap* map, float* y) {
    extern __shared__ __align__(1024) unsigned char memory[];
    unsigned long long* const full = reinterpret_cast<unsigned long long*>(memory + 2048);
    if (threadIdx.x == 0) {
        prefetch_map(map);
        mbarrier_init(full, 2), mbarrier_fence();
    }
    __syncthreads();
    if (threadIdx.x == 32) mbarrier_arrive(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, 2048);
        if constexpr (RANK == 2) copy_tile(memory, map, full, 8, -1);
        if constexpr (RANK == 3) copy_tile(memory, map, full, 0, -1, 2);
        if constexpr (RANK == 4) copy_tile(memory, map, full, 8, 1, -1, -3);
        if constexpr (RANK == 5) copy_tile(memory, map, full, 0, 1, -1, 2, 1);
    }
    mbarrier_wait(full, 0);
    for (int k = threadIdx.x; k < 512; k += 64) y[k] = reinterpret_cast<float*>(memory)[k];
}
extern "C" __global__ void behind_others(const float* x, float* y) {
    prefetch(x + threadIdx.x);
    wait_for_launches_before();
    let_next_launch_start();
    y[threadIdx.x] = 2.0f * x[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(384, 1) handed_over(const float* x, float* y) {
    __shared__ float values[256];
    if (threadIdx.x < 128) {
        give_registers<40>();
        for (int k = threadIdx.x; k < 256; k += 128) values[k] = 2.0f * x[k];
        named_barrier_arrive(1, 384);
    } else {
        take_registers<232>();
        named_barrier_sync(1, 384);
        const float mine = values[383 - threadIdx.x];
        named_barrier_sync(2, 256);
        y[threadIdx.x - 128] = mine;
    }
}
"""
SIXTEEN = ("__half", "__nv_bfloat16")
TURNED = (("false", "false"), ("false", "true"), ("true", "false"), ("true", "true"))
PRODUCTS = [(f"product{k}_{n}", t, n, TURNED[(n // 64 + k) % 4]) for k, t in enumerate(SIXTEEN) for n in (64, 128, 192, 256)]
PRODUCTS += [(f"turned{k}", "__nv_bfloat16", 128, turned) for k, turned in enumerate(TURNED)]
FROM_REGISTERS = [(f"registers{k}_{n}", t, n, "true" if (n // 64 + k) % 2 else "false") for k, t in enumerate(SIXTEEN) for n in (64, 128, 192, 256)]
IN_TF32 = (32, 64, 96, 128, 192, 256)
PRODUCTS += [(f"product_tf32_{n}", "float", n, TURNED[0]) for n in IN_TF32]
FROM_REGISTERS += [(f"registers_tf32_{n}", "float", n, "false") for n in IN_TF32]
BOUNDS = "__launch_bounds__(128, 1) "
HOPPER = Kernels(
    HOPPER_PARTS
    + "".join(kernel(m, "const uint4* x, float* y", f"    product<{t}, {n}, {', '.join(how)}>(x, y);", BOUNDS) for m, t, n, how in PRODUCTS)
    + "".join(
        kernel(m, "const uint4* x, const float* p, float* y", f"    from_registers<{t}, {n}, {how}>(x, p, y);", BOUNDS)
        for m, t, n, how in FROM_REGISTERS
    )
    + "".join(kernel(f"boxed{n}", "const __grid_constant__ TensorMap map, float* y", f"    boxed<{n}>(&map, y);") for n in (2, 3, 4, 5)),
    (
        "behind_others",
        "handed_over",
        *(m for m, *_ in (*PRODUCTS, *FROM_REGISTERS)),
        *(f"boxed{n}" for n in (2, 3, 4, 5)),
    ),
)
CORE = Kernels(test_core.SOURCE, ("total", "count", "lanes", "reversed"))
ASYNC = Kernels(test_async.SOURCE, ("waits_for_all",))
MMA = Kernels(test_mma.SOURCE, ("product_bf16", "product_half"))
TF32 = Kernels(test_mma.SOURCE_TF32, ("product_tf32", "rounded", "places"))

BITS = np.array([0x3F801000, 0x3F803000, 0x3F800FFF, 0xBF801000, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, 0x3FFFF000], np.uint32).view(np.float32)
SPECIAL = np.concatenate(
    [BITS, np.array([0, -0.0, 1e-40, -np.inf, np.nan, 448, 449, 464, 465, 57344, 61440, 65504, 65520, 6e-8, 2**-9, -3], np.float32)]
)
WHOLE = np.array([0, 1, -1, 2**31 - 1, -(2**31), 7, -7, 64], np.int64)
ARITHMETIC = np.concatenate([SPECIAL, 10 * drawn(np.float32, 256 - len(SPECIAL))])
COUNTED = RANDOM.integers(-(2**31), 2**31, 256)
COUNTED[: len(WHOLE)] = COUNTED[100 : 100 + 2 * len(WHOLE) : 2] = WHOLE
LARGE = RANDOM.integers(-(2**63), 2**63 - 1, 256)
LARGE[:8] = [0, 1, -1, 2**63 - 1, -(2**63), 0x7FF00000, 0x7FF00001, -7]


def boxes() -> dict[str, Case]:
    """Boxes of 2048 bytes out of tensors of rank 2 to 5; one takes every second and every third element, some swap chunks."""
    shapes = {2: (32, 40), 3: (16, 6, 9), 4: (16, 5, 6, 17), 5: (16, 4, 5, 4, 3)}
    box = {2: (32, 16), 3: (16, 4, 8), 4: (8, 2, 4, 8), 5: (16, 2, 4, 2, 2)}
    out = {}
    for rank, dims in shapes.items():
        strides = tuple(int(n) for n in 4 * np.cumprod(dims)[:-1])
        steps = (1, 2, 1, 3) if rank == 4 else ()
        place = TensorMap(("offset", 0), "float32", dims, strides, box[rank], {2: 128, 3: 64}.get(rank, 0), steps)
        out[f"boxes of rank {rank}"] = Case(
            HOPPER, f"boxed{rank}", 1, 64, (Mapped(drawn(np.float32, *dims[::-1]), place), zeros(512)), 0.0, 3072, True
        )
    return out


def wgmma(name: str, dtype: Any, n: int, *weights: np.ndarray) -> Case:
    operands = drawn(dtype, 64 + n, 128 // np.dtype(dtype).itemsize)
    return Case(HOPPER, name, 1, 128, (operands, *weights, zeros(n // 2, 128)), 2e-5, 128 * (64 + n), True)


CASES = {
    "shuffles and shared memory": Case(CORE, "total", 5, 128, (drawn(np.float32, 5, 1000), zeros(5), 1000)),
    "atomics": Case(CORE, "count", 24, 128, (RANDOM.integers(0, 16, 3000).astype(np.int32), zeros(16, dtype=np.int32), 3000)),
    "lanes": Case(CORE, "lanes", 1, 32, (zeros(192, dtype=np.int32),)),
    "barriers": Case(CORE, "reversed", 1, 64, (np.arange(64, dtype=np.int32), zeros(64, dtype=np.int32), 1)),
    "asynchronous copies": Case(ASYNC, "waits_for_all", 1, 32, (np.arange(256, dtype=np.float32), zeros(256))),
    "asynchronous copies of 8 bytes": Case(TILES, "copied_in_eights", 1, 32, (drawn(np.float32, 64), zeros(64))),
    "products of bfloat16": Case(MMA, "product_bf16", 1, 32, (drawn(BF16, 16, 16), drawn(BF16, 16, 8), zeros(16, 8)), 1e-5),
    "products of half": Case(MMA, "product_half", 1, 32, (drawn(np.float16, 16, 16), drawn(np.float16, 16, 8), zeros(16, 8)), 1e-5),
    "products in tf32, whose low bits are ignored": Case(
        TF32, "product_tf32", 1, 32, (drawn(np.float32, 16, 8), drawn(np.float32, 8, 8), zeros(16, 8)), 1e-5
    ),
    "rounding to tf32": Case(TF32, "rounded", 1, 32, (np.concatenate([BITS, drawn(np.float32, 24)]), zeros(32))),
    "places in tiles of terms": Case(TF32, "places", 1, 32, (zeros(3, 32, dtype=np.int32),)),
    "floats": Case(SCALARS, "floats", 1, 256, (ARITHMETIC, zeros(len(FLOATS), 256), 12345)),
    "doubles": Case(SCALARS, "doubles", 1, 256, (ARITHMETIC.astype(np.float64), zeros(len(DOUBLES), 256, dtype=np.float64))),
    "integers": Case(SCALARS, "integers", 1, 256, (COUNTED.astype(np.int32), zeros(len(INTEGERS), 256, dtype=np.int32))),
    "long integers": Case(SCALARS, "long_integers", 1, 256, (LARGE, zeros(len(LONG), 256, dtype=np.int64))),
    "logistic functions and normals": Case(SCALARS, "near_floats", 1, 256, (drawn(np.float32, 256), zeros(len(NEAR_FLOATS), 256)), 2e-6),
    "logistic functions of doubles": Case(SCALARS, "near_doubles", 1, 256, (drawn(np.float64, 256), zeros(1, 256, dtype=np.float64)), 1e-14),
    "places of groups": Case(SCALARS, "group_places", 20, 64, (np.arange(100, dtype=np.int32) ** 2 // 50, zeros(20, 64, dtype=np.int32))),
    **{
        f"elements of {t} in memory": Case(SCALARS, f"moved{k}", 1, 32, (x := drawn(TYPES[t], 512 // np.dtype(TYPES[t]).itemsize),
                                           zeros(4 * len(x), dtype=TYPES[t]), len(x) // 3))
        for k, t in enumerate(NARROW)
    },
    "rows of 16 lanes": Case(STREAMS, "rows_of_lanes", 1, 32, (drawn(np.float32, 48), drawn(np.float32, 512), zeros(12, 32))),
    "folds of 16 lanes": Case(STREAMS, "folds_of_lanes", 1, 32, (drawn(np.float32, 32), zeros(4, 32))),
    "streams of few rows": Case(STREAMS, "few_rows", 1, 32, (drawn(np.float32, 5 * 128), zeros(14, 32))),
    "the order of tiles": Case(TILES, "tile_walk", 1, 117, (zeros(117, 2, dtype=np.int32),)),
    "powers of two": Case(TILES, "powers", 1, 256, (np.concatenate([np.array([-np.inf, -126, -127, 0], np.float32), 20 * drawn(np.float32, 252)]),
                                                    zeros(256)), 2e-6),
    **{n: Case(TILES, n, 1, 32, (drawn(TYPES[t], 32, 32), drawn(TYPES[t], 64, 32), zeros(32, 64)), 2e-5) for n, t, _ in TENSOR},
    **{n: Case(TILES, n, 1, 32, (drawn(TYPES[t], 32, 32), drawn(TYPES[t], 64, 32), zeros(32, 64, dtype=TYPES[t]))) for n, t, _ in PLAIN},
    **{
        n: Case(TILES, n, 1, 32, (*(drawn(TYPES[t], 16, 128 // np.dtype(TYPES[t]).itemsize) for _ in "xy"), drawn(np.float32, 256),
                                  zeros(24, 32)), 2e-5)
        for n, t in STREAMED
    },
    "the order of launches": Case(HOPPER, "behind_others", 1, 64, (drawn(np.float32, 64), zeros(64)), 0.0, 0, True),
    "registers and named barriers": Case(HOPPER, "handed_over", 1, 384, (drawn(np.float32, 256), zeros(256)), 0.0, 0, True),
    **boxes(),
    **{m: wgmma(m, TYPES[t], n) for m, t, n, _ in PRODUCTS},
    **{m: wgmma(m, TYPES[t], n, drawn(np.float32, 128, 16)) for m, t, n, _ in FROM_REGISTERS},
}  # fmt: skip
