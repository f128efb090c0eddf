# Dense layers, embeddings, dropout, gated and plain feed-forward blocks.

layer linear(x[..., i], out, bias=true):
    param w[i, out] ~ xavier_uniform()
    param b[out] ~ zeros() if bias
    y[..., o] = sum[i](x[..., i] * w[i, o])
    return z[..., o] = y[..., o] + b[o] if bias else y[..., o]

layer bilinear(x[..., i], y[..., j], out, bias=true):
    param w[i, j, out] ~ xavier_uniform()
    param b[out] ~ zeros() if bias
    z[..., o] = sum[i, j](x[..., i] * y[..., j] * w[i, j, o])
    return r[..., o] = z[..., o] + b[o] if bias else z[..., o]

layer embedding(ids[...]: int32, vocab, width):
    param table[vocab, width] ~ normal(std=0.02)
    return y[..., d] = table[ids[...], d]

layer dropout(x[...], p):
    if training and p > 0:
        return y[...] = where(uniform() < p, 0, x[...] / (1 - p))
    else:
        return x

layer mlp(x[..., d], hidden, act=gelu, bias=true):
    return linear(act(linear(x, hidden, bias=bias)), size(d), bias=bias)

# gated linear units: one projection is the gate of the other (Dauphin et al. 2017; Shazeer 2020)
layer glu(x[..., d], hidden, act=sigmoid):
    return linear(act(linear(x, hidden, bias=false)) * linear(x, hidden, bias=false), size(d), bias=false)

layer swiglu(x[..., d], hidden):
    return glu(x, hidden, act=silu)

layer geglu(x[..., d], hidden):
    return glu(x, hidden, act=gelu)
