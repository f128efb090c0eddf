# Random features; the parallel and the recurrent form of linear attention.
layer features(x[b, h, t, c], m):
    state w[m, c] ~ normal()                      # drawn once, kept, not trained
    n[b, h, t] = sum[c](x[b, h, t, c] ** 2) / 2
    return f[b, h, t, m] = exp(sum[c](w[m, c] * x[b, h, t, c]) - n[b, h, t]) / sqrt(size(m))

layer linear_attention(q[b, h, t, m], k[b, h, t, m], v[b, h, t, c]):
    s[b, h, t, m, c] = cumsum[t](k[b, h, t, m] * v[b, h, t, c])
    z[b, h, t, m] = cumsum[t](k[b, h, t, m])
    return y[b, h, t, c] = sum[m](q[b, h, t, m] * s[b, h, t, m, c]) / sum[m](q[b, h, t, m] * z[b, h, t, m])

layer linear_attention_recurrent(q[b, h, t, m], k[b, h, t, m], v[b, h, t, c]):
    scan t carry s[b, h, m, c] = 0, z[b, h, m] = 0:
        s[b, h, m, c] = s[b, h, m, c] + k[b, h, t, m] * v[b, h, t, c]
        z[b, h, m] = z[b, h, m] + k[b, h, t, m]
        emit y[b, h, t, c] = sum[m](q[b, h, t, m] * s[b, h, m, c]) / sum[m](q[b, h, t, m] * z[b, h, m])
    return y

layer performer(x[b, t, d], heads, m=32):
    let c = d // heads
    param wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    phi = use features(m)
    q[b, h, t, c] = sum[d](x[b, t, d] * wq[d, h, c]) / size(c) ** 0.25
    k[b, h, t, c] = sum[d](x[b, t, d] * wk[d, h, c]) / size(c) ** 0.25
    v[b, h, t, c] = sum[d](x[b, t, d] * wv[d, h, c])
    o = linear_attention(phi(q), phi(k), v)
    return y[b, t, d] = sum[h, c](o[b, h, t, c] * wo[h, c, d])

model M:
    input x[2, 5, 8], q[1, 2, 5, 3], k[1, 2, 5, 3], v[1, 2, 5, 4]
    output y = performer(x, 2, m=5)
    phi = use features(6)
    output parallel = linear_attention(phi(q), phi(k), v), recurrent = linear_attention_recurrent(phi(q), phi(k), v)
    loss mean(y ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
