# Attention without a softmax: sigmoids, squared ReLUs, heads that talk (Shazeer et al. 2020).
layer by_sigmoid(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    p[b, h, i, j] = where(j <= i, sigmoid(s[b, h, i, j]), 0)
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

layer by_square(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    p[b, h, i, j] = where(j <= i, relu(s[b, h, i, j]) ** 2, 0) / (i + 1)
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

layer talking(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    param  mix[heads, heads] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    w[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    p[b, g, i, j] = sum[h](w[b, h, i, j] * mix[h, g])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model OtherWeights:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + by_sigmoid(rmsnorm(x), 2)
    x = x + by_square(rmsnorm(x), 2)
    x = x + talking(rmsnorm(x), 2)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
