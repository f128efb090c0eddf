# A Mamba block: a causal convolution of 4 steps for each channel, a selective state space of 16 states a channel, a gate.
model Mamba:
    dims    batch=1, time=512
    let     width=256, inner=512, states=16, rank=16
    input   x[batch, time, width]

    param   enter[width, 2, inner], filter[inner, 4], down[inner, rank], up[rank, inner] ~ normal(std=0.05)
    param   to_b[inner, states], to_c[inner, states], decay[inner, states], leave[inner, width] ~ normal(std=0.05)
    z[b, t, s, i] = sum[d](x[b, t, d] * enter[d, s, i])
    u[b, t < time, i] = silu(sum[k < 4](z[b, t + k - 3, 0, i] * filter[i, k]))
    r[b, t, k] = sum[i](u[b, t, i] * down[i, k])
    dt[b, t, i] = softplus(sum[k](r[b, t, k] * up[k, i]))
    bs[b, t, n] = sum[i](u[b, t, i] * to_b[i, n])
    cs[b, t, n] = sum[i](u[b, t, i] * to_c[i, n])
    scan t < time carry h[batch, inner, states] = 0:
        h[b, i, n] = exp(-dt[b, t, i] * exp(decay[i, n])) * h[b, i, n] + dt[b, t, i] * bs[b, t, n] * u[b, t, i]
        emit y[b, t, i] = sum[n](h[b, i, n] * cs[b, t, n])
    g[b, t, i] = y[b, t, i] * silu(z[b, t, 1, i])
    logits[b, t, d] = sum[i](g[b, t, i] * leave[i, d])

    output  logits
