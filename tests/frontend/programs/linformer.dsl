# Keys and values projected along time.
layer linformer(x[b, t, d], heads, k=16):
    let c = d // heads
    param wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    param e[k, t], f[k, t] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    short[b, r, d] = sum[t](e[r, t] * x[b, t, d])
    value[b, r, d] = sum[t](f[r, t] * x[b, t, d])
    s[b, h, i, r] = sum[c](q[b, h, i, c] * sum[d](short[b, r, d] * wk[d, h, c])) / sqrt(size(c))
    o[b, h, i, c] = sum[r](softmax[r](s[b, h, i, r]) * sum[d](value[b, r, d] * wv[d, h, c]))
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model M:
    input x[2, 6, 8]
    output y = linformer(x, 2, k=3)
    loss mean(y ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
