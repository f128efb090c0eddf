# One retention, three schedules.
layer retention(q[b, h, t, c], k[b, h, t, c], v[b, h, t, e]):
    g[h] = 1 - 2 ** (-5.0 - h)
    return y[b, h, i, e] = sum[j](where(j <= i, g[h] ** max(i - j, 0) * sum[c](q[b, h, i, c] * k[b, h, j, c]), 0) * v[b, h, j, e])

layer retention_recurrent(q[b, h, t, c], k[b, h, t, c], v[b, h, t, e]):
    g[h] = 1 - 2 ** (-5.0 - h)
    scan t carry s[b, h, c, e] = 0:
        s[b, h, c, e] = g[h] * s[b, h, c, e] + k[b, h, t, c] * v[b, h, t, e]
        emit y[b, h, t, e] = sum[c](q[b, h, t, c] * s[b, h, c, e])
    return y

layer retention_chunked(q[b, h, t, c], k[b, h, t, c], v[b, h, t, e], chunk=4):
    let n = t // chunk
    g[h] = 1 - 2 ** (-5.0 - h)
    scan m < n carry s[b, h, c, e] = 0:
        near[b, h, i < chunk, j < chunk] = sum[c](q[b, h, m*chunk + i, c] * k[b, h, m*chunk + j, c])
        inner[b, h, i < chunk, e] = sum[j < chunk](where(j <= i, g[h] ** max(i - j, 0) * near[b, h, i, j], 0) * v[b, h, m*chunk + j, e])
        cross[b, h, i < chunk, e] = g[h] ** (i + 1) * sum[c](q[b, h, m*chunk + i, c] * s[b, h, c, e])
        s[b, h, c, e] = g[h] ** chunk * s[b, h, c, e] + sum[j < chunk](g[h] ** (chunk - 1 - j) * k[b, h, m*chunk + j, c] * v[b, h, m*chunk + j, e])
        emit z[b, h, m, i, e] = inner[b, h, i, e] + cross[b, h, i, e]
    return y[b, h, t < n*chunk, e] = z[b, h, t // chunk, t % chunk, e]

model M:
    input q[2, 3, 8, 4], k[2, 3, 8, 4], v[2, 3, 8, 5]
    output parallel = retention(q, k, v), recurrent = retention_recurrent(q, k, v), chunked = retention_chunked(q, k, v)
