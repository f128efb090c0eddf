# Each position's two best experts, a best one alone, and every pair of channels sorted.
layer experts(x[b, t, d], count=4, hidden=8, k=2):
    param  wg[d, count] ~ normal(std=1.0)
    param  w1[count, d, hidden], w2[count, hidden, d] ~ xavier_uniform()
    g[b, t, e] = sum[d](x[b, t, d] * wg[d, e])
    order[b, t, e] = argsort[e](-g[b, t, e])
    top[b, t, r < k] = order[b, t, r]
    gate[b, t, r] = softmax[r](g[b, t, top[b, t, r]])
    h[b, t, r, f] = silu(sum[d](x[b, t, d] * w1[top[b, t, r], d, f]))
    return y[b, t, d] = sum[r, f](gate[b, t, r] * h[b, t, r, f] * w2[top[b, t, r], f, d])

layer switch(x[b, t, d], count=3):
    param  wg[d, count] ~ normal(std=1.0)
    param  w[count, d, d] ~ xavier_uniform()
    p[b, t, e] = softmax[e](sum[d](x[b, t, d] * wg[d, e]))
    best[b, t] = argmax[e](p[b, t, e])
    return y[b, t, k] = p[b, t, best[b, t]] * sum[d](x[b, t, d] * w[best[b, t], d, k])

model Experts:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + self_attention(rmsnorm(x), 2, causal=true)
    x = x + experts(rmsnorm(x))
    x = x + switch(rmsnorm(x))
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
