# Masks that are added to the scores, before they are divided and multiplied (Vaswani et al. 2017).
layer masked(x[b, t, d]):
    param  wq[d, d], wk[d, d] ~ xavier_uniform()
    m[i < t, j < t] = where(j > i, -inf, 0)
    s[b, i, j] = sum[e](sum[d](x[b, i, d] * wq[d, e]) * sum[d](x[b, j, d] * wk[d, e]))
    p[b, i, j] = softmax[j](1.5 * (s[b, i, j] + m[i, j]) / sqrt(d))
    return y[b, i, d] = sum[j](p[b, i, j] * x[b, j, d])

model AddedMasks:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + masked(rmsnorm(x))
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
