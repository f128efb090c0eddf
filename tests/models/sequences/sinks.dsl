# A window beside the first two positions (Xiao et al. 2024), and a learned sink in the denominator.
layer sunk(x[b, t, d], heads):
    let    c = d // heads
    param  wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    param  sink[heads] ~ normal(std=1.0)
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    s[b, h, i, j] = where(j <= i and (i - j < 4 or j < 2), s[b, h, i, j], -inf)
    m[b, h, i] = max(max[j](s[b, h, i, j]), sink[h])
    e[b, h, i, j] = exp(s[b, h, i, j] - m[b, h, i])
    l[b, h, i] = sum[j](e[b, h, i, j]) + exp(sink[h] - m[b, h, i])
    p[b, h, i, j] = e[b, h, i, j] / l[b, h, i]
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model Sinks:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + sunk(rmsnorm(x), 2)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
