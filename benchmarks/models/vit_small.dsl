# ViT-small: 16x16 patches of a 224x224 picture, width 384, 6 heads, 12 layers; the class from the mean of all patches.
layer attention_block(x[b, t, d], heads):
    let    c = d // heads
    param  qkv[d, 3, heads, c], proj[heads, c, d] ~ normal(std=0.02)
    param  qkv_shift[3, heads, c], proj_shift[d] ~ zeros()
    z[s, b, h, t, c] = sum[d](x[b, t, d] * qkv[d, s, h, c]) + qkv_shift[s, h, c]
    s[b, h, i, j] = sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * z[2, b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * proj[h, c, d]) + proj_shift[d]

layer feed_forward(x[b, t, d], hidden):
    param  fc[d, hidden], fc2[hidden, d] ~ normal(std=0.02)
    param  fc_shift[hidden], fc2_shift[d] ~ zeros()
    h[b, t, k] = gelu(sum[d](x[b, t, d] * fc[d, k]) + fc_shift[k])
    return y[b, t, d] = sum[k](h[b, t, k] * fc2[k, d]) + fc2_shift[d]

model ViTSmall:
    dims    batch=1, size=224
    let     patch=16, width=384, heads=6, depth=12, classes=1000
    input   x[batch, 3, size, size]

    param   place[196, width] ~ normal(std=0.02)
    z = conv2d(x, width, kernel=patch, stride=patch)
    e[b, t < 196, d] = z[b, d, t // 14, t % 14] + place[t, d]
    repeat depth:
        e = e + attention_block(layernorm(e), heads)
        e = e + feed_forward(layernorm(e), 4*width)
    e = layernorm(e)
    param   head[width, classes] ~ normal(std=0.02)
    m[b, d] = mean[t](e[b, t, d])
    logits[b, k] = sum[d](m[b, d] * head[d, k])

    output  logits
