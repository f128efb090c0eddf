# Keys and values from one small latent (DeepSeek-V2), with a rotated part of their own.
layer latent(x[b, t, d], heads, rank):
    let    c = d // heads
    param  wq[d, heads, c], down[d, rank], wk[rank, heads, c], wv[rank, heads, c], wo[heads, c, d], turn[d, c] ~ xavier_uniform()
    z[b, j, r] = sum[d](x[b, j, d] * down[d, r])
    u[b, g < 1, j, c] = sum[d](x[b, j, d] * turn[d, c])
    u = rotary(u)
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    q = rotary(q)
    k[b, h, j, c] = sum[r](z[b, j, r] * wk[r, h, c]) + u[b, 0, j, c]
    s[b, h, i, j] = where(j <= i, sum[c](q[b, h, i, c] * k[b, h, j, c]), -inf)
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * sum[r](z[b, j, r] * wv[r, h, c]))
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model Latent:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + latent(rmsnorm(x), 2, 3)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
