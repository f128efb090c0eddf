# BERT-base over one text of 128 tokens: 12 layers of width 768 with 12 heads, normalized behind each residual; a smaller vocabulary, for its table is
# only read.
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

model BERTBase:
    dims    batch=1, time=128
    let     vocab=8192, width=768, heads=12, depth=12
    input   x[batch, time]: int32

    param   wte[vocab, width], wpe[time, width] ~ normal(std=0.02)
    w[b, t, d] = wte[x[b, t], d] + wpe[t, d]
    e = layernorm(w)
    repeat depth:
        e = layernorm(e + attention_block(e, heads))
        e = layernorm(e + feed_forward(e, 4*width))
    logits = e

    output  logits
