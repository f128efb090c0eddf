// Register tiles of streams of few rows: the lanes of a group share the features of the rows that it reads, and every group has rows of y of its own.
#pragma once

// s[i][j] = sum over all features, which LANES neighbouring lanes have among them, of x[i] * y[j]; each lane gets the same bits.
template <int LANES, int ROWS, int COLUMNS, int HELD>
__device__ __forceinline__ void products_of_lanes(float (&s)[ROWS][COLUMNS], const float (&x)[ROWS][HELD], const float (&y)[COLUMNS][HELD]) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            float sum = 0.0f;
#pragma unroll
            for (int f = 0; f < HELD; ++f) sum = fmaf(x[i][f], y[j][f], sum);
#pragma unroll
            for (int offset = LANES / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
            s[i][j] = sum;
        }
    }
}

// o[i][f] += sum over j of p[i][j] * v[j][f]
template <int ROWS, int COLUMNS, int HELD>
__device__ __forceinline__ void add_weighted(float (&o)[ROWS][HELD], const float (&p)[ROWS][COLUMNS], const float (&v)[COLUMNS][HELD]) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
            for (int f = 0; f < HELD; ++f) o[i][f] = fmaf(p[i][j], v[j][f], o[i][f]);
        }
    }
}
