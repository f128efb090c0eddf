# The difference of two softmaxes (Ye et al. 2024).
layer differential(x[b, t, d], c):
    param  wq[2, d, c], wk[2, d, c], wv[d, c], wo[c, d] ~ xavier_uniform()
    param  weigh ~ constant(0.4)
    q[n, b, i, c] = sum[d](x[b, i, d] * wq[n, d, c])
    k[n, b, j, c] = sum[d](x[b, j, d] * wk[n, d, c])
    s[n, b, i, j] = where(j <= i, sum[c](q[n, b, i, c] * k[n, b, j, c]), -inf)
    p[n, b, i, j] = softmax[j](s[n, b, i, j])
    a[b, i, j] = p[0, b, i, j] - weigh * p[1, b, i, j]
    o[b, i, c] = sum[j](a[b, i, j] * sum[d](x[b, j, d] * wv[d, c]))
    return y[b, i, d] = sum[c](o[b, i, c] * wo[c, d])

model Differential:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + differential(rmsnorm(x), 6)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
