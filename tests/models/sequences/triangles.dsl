# Sums over time by matrices with a triangle of zeros: constant, decaying, banded, learned (gMLP, Liu et al. 2021).
layer spatial_gate(x[b, t, d]):
    param  w[t, t] ~ normal(std=0.3)
    param  bias[t] ~ ones()
    m[i, j] = where(j <= i, w[i, j], 0)
    return y[b, i, d] = x[b, i, d] * (sum[j](m[i, j] * x[b, j, d]) + bias[i])

layer heads_of_decay(x[b, t, d], heads):
    m[h < heads, i < size(t), j < size(t)] = where(j <= i, (1 - 2 ** (-1.0 - h)) ** max(i - j, 0), 0)
    return y[b, i, d] = sum[j, h](m[h, i, j] * x[b, j, d]) / heads

model Triangles:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    m[i < time, j < time] = where(j <= i, 1 / (i + 1), 0)
    a[b, i, d] = sum[j](m[i, j] * x[b, j, d])
    n[i < time, j < time] = where(0 <= i - j < 3, 0.5 ** max(i - j, 0), 0)
    c[b, i, d] = sum[j](n[i, j] * a[b, j, d])
    x = x + c + spatial_gate(rmsnorm(x))
    x = x + heads_of_decay(rmsnorm(x), 3)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
