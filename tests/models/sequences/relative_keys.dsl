# Keys that know their distance (Shaw et al. 2018).
layer shaw(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    param  r[heads, 2 * t, c] ~ normal(std=1.0)
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    s[b, h, i, j] = s[b, h, i, j] + sum[c](q[b, h, i, c] * r[h, i - j + t, c])
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model RelativeKeys:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + shaw(rmsnorm(x), 2)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
