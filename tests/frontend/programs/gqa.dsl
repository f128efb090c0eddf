# Grouped queries with rotary positions and a window.
layer rotary(x[b, h, t, c], base=10000.0):
    angle[t, c] = t / base ** (2 * (c % (size(c) // 2)) / size(c))
    turned[b, h, t, c] = where(c < size(c) // 2, -x[b, h, t, c + size(c) // 2], x[b, h, t, c - size(c) // 2])
    return y[b, h, t, c] = x[b, h, t, c] * cos(angle[t, c]) + turned[b, h, t, c] * sin(angle[t, c])

layer gqa(x[b, t, d], heads, groups, window=0):
    let c = d // heads, per = heads // groups
    param wq[d, heads, c], wk[d, groups, c], wv[d, groups, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, g, j, c] = sum[d](x[b, j, d] * wk[d, g, c])
    v[b, g, j, c] = sum[d](x[b, j, d] * wv[d, g, c])
    s[b, h, i, j] = sum[c](rotary(q)[b, h, i, c] * rotary(k)[b, h // per, j, c]) / sqrt(size(c))
    s[b, h, i, j] = where(j <= i, s[b, h, i, j], -inf)
    s[b, h, i, j] = where(i - j < window, s[b, h, i, j], -inf) if window > 0 else s[b, h, i, j]
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h // per, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model M:
    input x[2, 6, 32]
    output y = gqa(x, 4, 2), windowed = gqa(x, 4, 2, window=3)
    loss mean(y ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
