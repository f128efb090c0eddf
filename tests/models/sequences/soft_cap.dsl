# Scores and logits in soft caps (Gemma 2), a window in every other layer.
layer capped(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    s[b, h, i, j] = 5 * tanh(s[b, h, i, j] / 5)
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

layer capped_window(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    s[b, h, i, j] = 5 * tanh(s[b, h, i, j] / 5)
    p[b, h, i, j] = softmax[j](where(0 <= i - j < 3, s[b, h, i, j], -inf))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model SoftCap:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + capped(rmsnorm(x), 2)
        x = x + capped_window(rmsnorm(x), 2)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
