# Pooling: windows, the whole plane, or a given number of bins. Padding never wins a maximum, and counts as zeros in a mean, as in torch.

layer maxpool1d(x[n, c, p], kernel=2, stride=2, pad=0):
    let P = (p + 2*pad - kernel) // stride + 1
    return y[n, c, i < P] = max[u < kernel](x[n, c, i*stride + u - pad, outside=-inf])

layer maxpool2d(x[n, c, p, q], kernel=2, stride=2, pad=0):
    let P = (p + 2*pad - kernel) // stride + 1, Q = (q + 2*pad - kernel) // stride + 1
    return y[n, c, i < P, j < Q] = max[u < kernel, v < kernel](x[n, c, i*stride + u - pad, j*stride + v - pad, outside=-inf])

layer maxpool3d(x[n, c, p, q, r], kernel=2, stride=2, pad=0):
    let P = (p + 2*pad - kernel) // stride + 1, Q = (q + 2*pad - kernel) // stride + 1, R = (r + 2*pad - kernel) // stride + 1
    return y[n, c, i < P, j < Q, k < R] = max[u < kernel, v < kernel, w < kernel](x[n, c, i*stride + u - pad, j*stride + v - pad, k*stride + w - pad, outside=-inf])

layer avgpool1d(x[n, c, p], kernel=2, stride=2, pad=0):
    let P = (p + 2*pad - kernel) // stride + 1
    return y[n, c, i < P] = mean[u < kernel](x[n, c, i*stride + u - pad])

layer avgpool2d(x[n, c, p, q], kernel=2, stride=2, pad=0):
    let P = (p + 2*pad - kernel) // stride + 1, Q = (q + 2*pad - kernel) // stride + 1
    return y[n, c, i < P, j < Q] = mean[u < kernel, v < kernel](x[n, c, i*stride + u - pad, j*stride + v - pad])

layer avgpool3d(x[n, c, p, q, r], kernel=2, stride=2, pad=0):
    let P = (p + 2*pad - kernel) // stride + 1, Q = (q + 2*pad - kernel) // stride + 1, R = (r + 2*pad - kernel) // stride + 1
    return y[n, c, i < P, j < Q, k < R] = mean[u < kernel, v < kernel, w < kernel](x[n, c, i*stride + u - pad, j*stride + v - pad, k*stride + w - pad])

layer global_mean(x[n, c, ...]):
    return y[n, c] = mean[...](x[n, c, ...])

layer global_max(x[n, c, ...]):
    return y[n, c] = max[...](x[n, c, ...])

# bin i covers floor(i * size / bins) up to, without it, ceil((i + 1) * size / bins)
layer adaptive_avgpool2d(x[n, c, p, q], bins):
    rows[i < bins, p] = float32(i * size(p) // bins <= p < ((i + 1) * size(p) + bins - 1) // bins)
    cols[j < bins, q] = float32(j * size(q) // bins <= q < ((j + 1) * size(q) + bins - 1) // bins)
    high[i < bins] = sum[p](rows[i, p])
    wide[j < bins] = sum[q](cols[j, q])
    return y[n, c, i < bins, j < bins] = sum[p, q](x[n, c, p, q] * rows[i, p] * cols[j, q]) / (high[i] * wide[j])

layer adaptive_maxpool2d(x[n, c, p, q], bins):
    return y[n, c, i < bins, j < bins] = max[p, q](where(i * size(p) // bins <= p < ((i + 1) * size(p) + bins - 1) // bins and j * size(q) // bins <= q < ((j + 1) * size(q) + bins - 1) // bins, x[n, c, p, q], -inf))
