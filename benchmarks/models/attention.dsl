# Causal attention of 8 heads over 2048 positions, 64 features each, as naive equations; `shift` is there to be trained.
model Attention:
    dims    batch=1, heads=8, time=2048, width=64
    input   x[3, batch, heads, time, width]
    input   y[batch, heads, time]: int32
    param   shift[3, batch, heads, time, width] ~ zeros()
    z = x + shift
    s[b, h, i, j] = sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    logits[b, h, i, c] = sum[j](p[b, h, i, j] * z[2, b, h, j, c])
    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
