# Two towers, one of them shared; a learned temperature.
layer global_mean(x[n, c, p, q]):
    return y[n, c] = mean[p, q](x[n, c, p, q])

layer text_tower(ids[b, t]: int32, vocab=9, width=8, out=6):
    param weight[width, out] ~ xavier_uniform()
    x = embedding(ids, vocab, width)
    repeat 2:
        x = x + self_attention(rmsnorm(x), 2)
    return y[b, o] = sum[t, d](x[b, t, d] * weight[d, o]) / size(t)
layer image_tower(x[n, c, p, q], out=6):
    return linear(global_mean(conv2d(x, 8, stride=2)), out)
layer unit_length(x[..., d]):
    return y[..., d] = x[..., d] * rsqrt(sum[e](x[..., e] ** 2) + 1e-8)
model Clip:
    dims batch=3, time=5
    input image[batch, 3, 8, 8], text[batch, time]: int32, caption2[batch, time]: int32
    param scale = log(1 / 0.07)
    words = use text_tower()                       # called twice: one set of weights
    i = unit_length(image_tower(image));  t = unit_length(words(text));  u = unit_length(words(caption2))
    s[a, b] = exp(scale) * sum[k](i[a, k] * (t[b, k] + u[b, k]) / 2)
    rows[a] = logsumexp[b](s[a, b]) - s[a, a]
    cols[b] = logsumexp[a](s[a, b]) - s[b, b]
    output s
    loss mean(rows) + mean(cols)
    metric top1[a] = argmax[b](s[a, b]) == a

train:
    steps 3
    optimizer adam(lr=1e-3)
