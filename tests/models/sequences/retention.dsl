# Retention, at once and as a scan (Sun et al. 2023).
layer retention(q[b, h, t, c], k[b, h, t, c], v[b, h, t, e]):
    g[h] = 1 - 2 ** (-2.0 - h)
    a[b, h, i, j] = where(j <= i, g[h] ** max(i - j, 0) * sum[c](q[b, h, i, c] * k[b, h, j, c]), 0)
    o[b, h, i, e] = sum[j](a[b, h, i, j] * v[b, h, j, e])
    return y[b, h, i, e] = o[b, h, i, e] / max(abs(sum[j](a[b, h, i, j])), 1)

layer recurrent(q[b, h, t, c], k[b, h, t, c], v[b, h, t, e]):
    g[h] = 1 - 2 ** (-2.0 - h)
    scan t carry s[b, h, c, e] = 0:
        s[b, h, c, e] = g[h] * s[b, h, c, e] + k[b, h, t, c] * v[b, h, t, e]
        emit y[b, h, t, e] = sum[c](q[b, h, t, c] * s[b, h, c, e])
    return y

layer block(x[b, t, d], heads, form):
    let    c = d // heads
    param  w[3, d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    z[n, b, h, t, c] = sum[d](x[b, t, d] * w[n, d, h, c])
    q[b, h, t, c] = z[0, b, h, t, c]
    k[b, h, t, c] = z[1, b, h, t, c]
    v[b, h, t, c] = z[2, b, h, t, c]
    o = form(rotary(q), rotary(k), v)
    return y[b, t, d] = sum[h, c](o[b, h, t, c] * wo[h, c, d])

model Retention:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + block(rmsnorm(x), 2, retention)
    x = x + block(rmsnorm(x), 2, recurrent)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
