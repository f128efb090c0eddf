# A selective state space.
layer causal_conv(x[b, t, c], kernel=4):
    param w[c, kernel] ~ he_normal()
    return y[b, t, c] = sum[u](x[b, t - u, c] * w[c, u])

layer mamba(x[b, t, d], n=16, expand=2, rank=8):
    let e = expand * d
    param win[d, 2, e], wx[e, rank + 2 * n], wdt[rank, e], wout[e, d] ~ xavier_uniform()
    param alog[i < e, j < n] = log(j + 1)                     # the starting value is an equation
    param dbias[e] ~ constant(-4.0);  param skip[e] ~ ones()
    u[b, t, e] = sum[d](x[b, t, d] * win[d, 0, e])
    z[b, t, e] = sum[d](x[b, t, d] * win[d, 1, e])
    u = silu(causal_conv(u))
    r[b, t, k] = sum[e](u[b, t, e] * wx[e, k])
    dt[b, t, e] = softplus(sum[k < rank](r[b, t, k] * wdt[k, e]) + dbias[e])
    scan t carry h[b, e, n] = 0:
        h[b, e, n] = exp(-dt[b, t, e] * exp(alog[e, n])) * h[b, e, n] + dt[b, t, e] * r[b, t, rank + n] * u[b, t, e]
        emit y[b, t, e] = sum[n](h[b, e, n] * r[b, t, rank + size(n) + n]) + skip[e] * u[b, t, e]
    return out[b, t, d] = sum[e](y[b, t, e] * silu(z[b, t, e]) * wout[e, d])

model M:
    input x[2, 6, 8]
    output y = mamba(x, n=4, rank=3)
    loss mean(y ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
