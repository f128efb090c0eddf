# Attention as its equations; a tiled kernel without the matrix of scores is the compiler's work.

layer self_attention(x[b, t, d], heads, kv_heads=0, causal=false, window=0, rotate=false, dropout=0.0):
    let    c = d // heads, groups = kv_heads if kv_heads > 0 else heads, per = heads // groups
    param  wq[d, heads, c], wk[d, groups, c], wv[d, groups, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, g, j, c] = sum[d](x[b, j, d] * wk[d, g, c])
    v[b, g, j, c] = sum[d](x[b, j, d] * wv[d, g, c])
    if rotate:
        q = rotary(q)
        k = rotary(k)
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h // per, j, c]) / sqrt(size(c))
    s[b, h, i, j] = where(j <= i, s[b, h, i, j], -inf) if causal else s[b, h, i, j]
    s[b, h, i, j] = where(abs(i - j) < window, s[b, h, i, j], -inf) if window > 0 else s[b, h, i, j]
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    if dropout > 0 and training:
        p[b, h, i, j] = where(uniform() < dropout, 0, p[b, h, i, j] / (1 - dropout))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h // per, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

# queries from x, keys and values from memory
layer cross_attention(x[b, i, d], memory[b, j, e], heads, kv_heads=0, dropout=0.0):
    let    c = d // heads, groups = kv_heads if kv_heads > 0 else heads, per = heads // groups
    param  wq[d, heads, c], wk[e, groups, c], wv[e, groups, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, g, j, c] = sum[e](memory[b, j, e] * wk[e, g, c])
    v[b, g, j, c] = sum[e](memory[b, j, e] * wv[e, g, c])
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h // per, j, c]) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    if dropout > 0 and training:
        p[b, h, i, j] = where(uniform() < dropout, 0, p[b, h, i, j] / (1 - dropout))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h // per, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])
