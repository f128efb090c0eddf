# A bias looked up by the distance, and by its bucket (Raffel et al. 2020).
layer related(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    param  near[heads, 6], far[heads, 8] ~ normal(std=1.0)
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    bucket[i < size(t), j < size(t)] = where(i - j < 4, max(i - j, 0), 4 + int32(log(max(i - j, 4) / 4) / log(2)))
    s[b, h, i, j] = s[b, h, i, j] + near[h, clip(i - j, 0, 5)] + far[h, min(bucket[i, j], 7)]
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model RelativeTable:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + related(rmsnorm(x), 2)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
