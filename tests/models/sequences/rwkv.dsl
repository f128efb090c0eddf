# Time and channel mixing with a running maximum (Peng et al. 2023).
layer time_mix(x[b, t, d]):
    param  mu[3, d] ~ constant(0.5)
    param  wr[d, d], wk[d, d], wv[d, d], wo[d, d] ~ xavier_uniform()
    param  decay[d], bonus[d] ~ normal(std=1.0)
    z[n, b, t, d] = mu[n, d] * x[b, t, d] + (1 - mu[n, d]) * x[b, t - 1, d]
    r[b, t, e] = sigmoid(sum[d](z[0, b, t, d] * wr[d, e]))
    k[b, t, e] = sum[d](z[1, b, t, d] * wk[d, e])
    v[b, t, e] = sum[d](z[2, b, t, d] * wv[d, e])
    scan t carry num[b, d] = 0, den[b, d] = 0, top[b, d] = -1e30:
        m[b, d] = max(top[b, d], bonus[d] + k[b, t, d])
        e1[b, d] = exp(top[b, d] - m[b, d])
        e2[b, d] = exp(bonus[d] + k[b, t, d] - m[b, d])
        emit y[b, t, d] = (e1[b, d] * num[b, d] + e2[b, d] * v[b, t, d]) / (e1[b, d] * den[b, d] + e2[b, d])
        m[b, d] = max(top[b, d] - exp(decay[d]), k[b, t, d])
        e1[b, d] = exp(top[b, d] - exp(decay[d]) - m[b, d])
        e2[b, d] = exp(k[b, t, d] - m[b, d])
        num[b, d] = e1[b, d] * num[b, d] + e2[b, d] * v[b, t, d]
        den[b, d] = e1[b, d] * den[b, d] + e2[b, d]
        top[b, d] = m[b, d]
    return o[b, t, d] = sum[e](r[b, t, e] * y[b, t, e] * wo[e, d])

layer channel_mix(x[b, t, d], hidden):
    param  mu[d] ~ constant(0.3)
    param  wk[d, hidden], wv[hidden, d] ~ xavier_uniform()
    z[b, t, d] = mu[d] * x[b, t, d] + (1 - mu[d]) * x[b, t - 1, d]
    h[b, t, k] = relu(sum[d](z[b, t, d] * wk[d, k])) ** 2
    return y[b, t, d] = sum[k](h[b, t, k] * wv[k, d])

model Rwkv:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + time_mix(layernorm(x))
        x = x + channel_mix(layernorm(x), 16)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
