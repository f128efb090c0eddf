# State spaces with attention between them (Jamba), a moving average beside attention (Mega).
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

layer average(x[b, t, d]):
    param  a[d] ~ normal(std=1.0)
    scan t carry h[b, d] = 0:
        h[b, d] = sigmoid(a[d]) * x[b, t, d] + (1 - sigmoid(a[d])) * h[b, d]
        emit y[b, t, d] = h[b, d]
    return y

model Hybrid:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + mamba(rmsnorm(x))
    x = x + self_attention(rmsnorm(x), 2, causal=true, window=3, rotate=true)
    x = x + average(x) * self_attention(rmsnorm(x), 2, kv_heads=1, causal=true)
    x = x + gru(x, width)
    x = x + swiglu(rmsnorm(x), hidden=16)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
