# A GPT of 6 layers, width 384, 6 heads, 256 tokens, batch 8, vocabulary 65; the head is tied to the embedding.
layer scale_norm(x[b, t, d], eps=1e-5):
    param scale[d] ~ ones()
    mu[b, t] = mean[d](x[b, t, d])
    var[b, t] = mean[d]((x[b, t, d] - mu[b, t]) ** 2)
    return y[b, t, d] = (x[b, t, d] - mu[b, t]) * rsqrt(var[b, t] + eps) * scale[d]

layer attention_block(x[b, t, d], heads):
    let    c = d // heads
    param  qkv[d, 3, heads, c], proj[heads, c, d] ~ normal(std=0.02)
    z[s, b, h, t, c] = sum[d](x[b, t, d] * qkv[d, s, h, c])
    s[b, h, i, j] = sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]) / sqrt(size(c))
    s[b, h, i, j] = where(j <= i, s[b, h, i, j], -inf)
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * z[2, b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * proj[h, c, d])

layer feed_forward(x[b, t, d], hidden):
    param  fc[d, hidden], fc2[hidden, d] ~ normal(std=0.02)
    h[b, t, k] = gelu(sum[d](x[b, t, d] * fc[d, k]))
    return y[b, t, d] = sum[k](h[b, t, k] * fc2[k, d])

model GPT:
    dims    batch=8, time=256
    let     vocab=65, width=384, heads=6, depth=6
    input   x[batch, time]: int32
    input   y[batch, time]: int32

    param   wte[vocab, width], wpe[time, width] ~ normal(std=0.02)
    e[b, t, d] = wte[x[b, t], d] + wpe[t, d]
    repeat depth:
        e = e + attention_block(scale_norm(e), heads)
        e = e + feed_forward(scale_norm(e), 4*width)
    e = scale_norm(e)
    logits[b, t, v] = sum[d](e[b, t, d] * wte[v, d])

    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
