# A selective state space (Gu and Dao 2023).
layer mamba(x[b, t, d], n=4, expand=2, rank=3):
    let    e = expand * d
    param  win[d, 2, e], wx[e, rank + 2 * n], wdt[rank, e], wout[e, d] ~ xavier_uniform()
    param  w[e, 3] ~ he_normal()
    param  alog[i < e, j < n] = log(j + 1)
    u[b, t, e] = sum[d](x[b, t, d] * win[d, 0, e])
    z[b, t, e] = sum[d](x[b, t, d] * win[d, 1, e])
    u[b, t, e] = silu(sum[k](u[b, t - k, e] * w[e, k]))
    r[b, t, k] = sum[e](u[b, t, e] * wx[e, k])
    dt[b, t, e] = softplus(sum[k < rank](r[b, t, k] * wdt[k, e]))
    scan t carry h[b, e, n] = 0:
        h[b, e, n] = exp(-dt[b, t, e] * exp(alog[e, n])) * h[b, e, n] + dt[b, t, e] * r[b, t, rank + n] * u[b, t, e]
        emit y[b, t, e] = sum[n](h[b, e, n] * r[b, t, rank + size(n) + n])
    return out[b, t, d] = sum[e](y[b, t, e] * silu(z[b, t, e]) * wout[e, d])

model Mamba:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + mamba(rmsnorm(x))
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
