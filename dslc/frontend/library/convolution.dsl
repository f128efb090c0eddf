# Convolutions: groups of c // groups channels, zero padding of `pad` on both sides.

layer conv1d(x[n, c, p], out, kernel=3, stride=1, pad=0, dilation=1, groups=1, bias=false):
    let   m = c // groups, per = out // groups, reach = dilation * (kernel - 1) + 1
    param w[out, m, kernel] ~ he_normal()
    param b[out] ~ zeros() if bias
    let   P = (p + 2*pad - reach) // stride + 1
    y[n, o, i < P] = sum[m, u](x[n, o // per * size(m) + m, i*stride + u*dilation - pad] * w[o, m, u])
    return z[n, o, i] = y[n, o, i] + b[o] if bias else y[n, o, i]

layer conv2d(x[n, c, p, q], out, kernel=3, stride=1, pad=0, dilation=1, groups=1, bias=false):
    let   m = c // groups, per = out // groups, reach = dilation * (kernel - 1) + 1
    param w[out, m, kernel, kernel] ~ he_normal()
    param b[out] ~ zeros() if bias
    let   P = (p + 2*pad - reach) // stride + 1, Q = (q + 2*pad - reach) // stride + 1
    y[n, o, i < P, j < Q] = sum[m, u, v](x[n, o // per * size(m) + m, i*stride + u*dilation - pad, j*stride + v*dilation - pad] * w[o, m, u, v])
    return z[n, o, i, j] = y[n, o, i, j] + b[o] if bias else y[n, o, i, j]

layer conv3d(x[n, c, p, q, r], out, kernel=3, stride=1, pad=0, dilation=1, groups=1, bias=false):
    let   m = c // groups, per = out // groups, reach = dilation * (kernel - 1) + 1
    param w[out, m, kernel, kernel, kernel] ~ he_normal()
    param b[out] ~ zeros() if bias
    let   P = (p + 2*pad - reach) // stride + 1, Q = (q + 2*pad - reach) // stride + 1, R = (r + 2*pad - reach) // stride + 1
    y[n, o, i < P, j < Q, k < R] = sum[m, u, v, s](x[n, o // per * size(m) + m, i*stride + u*dilation - pad, j*stride + v*dilation - pad, k*stride + s*dilation - pad] * w[o, m, u, v, s])
    return z[n, o, i, j, k] = y[n, o, i, j, k] + b[o] if bias else y[n, o, i, j, k]

# a filter of its own for each channel
layer depthwise_conv2d(x[n, c, p, q], kernel=3, stride=1, pad=0, dilation=1):
    let   reach = dilation * (kernel - 1) + 1
    param w[c, kernel, kernel] ~ he_normal()
    let   P = (p + 2*pad - reach) // stride + 1, Q = (q + 2*pad - reach) // stride + 1
    return y[n, c, i < P, j < Q] = sum[u, v](x[n, c, i*stride + u*dilation - pad, j*stride + v*dilation - pad] * w[c, u, v])

# the adjoint of a strided convolution: each input spreads its filter over the output, which is `extra` longer at its end
layer conv_transpose1d(x[n, c, p], out, kernel=3, stride=1, pad=0, dilation=1, extra=0, bias=false):
    let   reach = dilation * (kernel - 1) + 1
    param w[c, out, kernel] ~ he_normal()
    param b[out] ~ zeros() if bias
    let   P = (p - 1) * stride - 2*pad + reach + extra
    up[n, c, i < (p - 1) * stride + 1] = where(i % stride == 0, x[n, c, i // stride], 0)
    y[n, o, i < P] = sum[c, u < kernel](up[n, c, i + u*dilation + pad - (reach - 1)] * w[c, o, kernel - 1 - u])
    return z[n, o, i] = y[n, o, i] + b[o] if bias else y[n, o, i]

layer conv_transpose2d(x[n, c, p, q], out, kernel=3, stride=1, pad=0, dilation=1, extra=0, bias=false):
    let   reach = dilation * (kernel - 1) + 1
    param w[c, out, kernel, kernel] ~ he_normal()
    param b[out] ~ zeros() if bias
    let   P = (p - 1) * stride - 2*pad + reach + extra, Q = (q - 1) * stride - 2*pad + reach + extra
    up[n, c, i < (p - 1) * stride + 1, j < (q - 1) * stride + 1] = where(i % stride == 0 and j % stride == 0, x[n, c, i // stride, j // stride], 0)
    y[n, o, i < P, j < Q] = sum[c, u < kernel, v < kernel](up[n, c, i + u*dilation + pad - (reach - 1), j + v*dilation + pad - (reach - 1)] * w[c, o, kernel - 1 - u, kernel - 1 - v])
    return z[n, o, i, j] = y[n, o, i, j] + b[o] if bias else y[n, o, i, j]

layer conv_transpose3d(x[n, c, p, q, r], out, kernel=3, stride=1, pad=0, dilation=1, extra=0, bias=false):
    let   reach = dilation * (kernel - 1) + 1
    param w[c, out, kernel, kernel, kernel] ~ he_normal()
    param b[out] ~ zeros() if bias
    let   P = (p - 1) * stride - 2*pad + reach + extra, Q = (q - 1) * stride - 2*pad + reach + extra, R = (r - 1) * stride - 2*pad + reach + extra
    up[n, c, i < (p - 1) * stride + 1, j < (q - 1) * stride + 1, k < (r - 1) * stride + 1] = where(i % stride == 0 and j % stride == 0 and k % stride == 0, x[n, c, i // stride, j // stride, k // stride], 0)
    y[n, o, i < P, j < Q, k < R] = sum[c, u < kernel, v < kernel, s < kernel](up[n, c, i + u*dilation + pad - (reach - 1), j + v*dilation + pad - (reach - 1), k + s*dilation + pad - (reach - 1)] * w[c, o, kernel - 1 - u, kernel - 1 - v, kernel - 1 - s])
    return z[n, o, i, j, k] = y[n, o, i, j, k] + b[o] if bias else y[n, o, i, j, k]

# y[b, t, c] = sum[k](x[b, t - k, c] * h[k, c]) by Fourier transforms: both halves of the batch, as real and imaginary parts, share each transform
layer long_convolution(x[b, t, c], h[k, c]):
    let   half = (b + 1) // 2, n = int(2 ** ceil(log(t + min(k, t) - 1) / log(2)))
    re[r < half, i < n, c] = x[r, i, c]
    im[r < half, i < n, c] = x[r + half, i, c]
    taps[i < n, c] = where(i < t, h[i, c], 0)
    xr, xi = fft(re, im, axis=1)
    hr, hi = fft(taps, axis=0)
    yr[r, i, c] = xr[r, i, c] * hr[i, c] - xi[r, i, c] * hi[i, c]
    yi[r, i, c] = xr[r, i, c] * hi[i, c] + xi[r, i, c] * hr[i, c]
    first, second = ifft(yr, yi, axis=1)
    return y[b < b, i < t, c] = concat(first, second, axis=0)[b, i, c]
