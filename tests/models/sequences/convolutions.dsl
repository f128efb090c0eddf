# Windows of convolutions: dilated, depthwise, as long as the time (Poli et al. 2023), shifted tokens.
layer causal_conv(x[b, t, d], out, kernel=3, dilation=1):
    param  w[kernel, d, out] ~ he_normal()
    return y[b, t, o] = sum[u, d](x[b, t - u * dilation, d] * w[u, d, o])

layer depthwise(x[b, t, d], kernel=4):
    param  w[d, kernel] ~ normal(std=0.5)
    return y[b, t, d] = sum[u](x[b, t - u, d] * w[d, u])

layer hyena(x[b, t, d]):
    param  w[t, d] ~ normal(std=0.3)
    filter[u, d] = w[u, d] * exp(-0.2 * u)
    y[b, t, d] = sum[u](x[b, t - u, d] * filter[u, d])
    return z[b, t, d] = y[b, t, d] * x[b, t, d]

model Convolutions:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x[b, t, d] = 0.6 * x[b, t, d] + 0.4 * x[b, t - 1, d]
    x = x + gelu(causal_conv(x, width))
    x = x + gelu(causal_conv(x, width, kernel=2, dilation=3))
    x = x + depthwise(x)
    x = x + hyena(rmsnorm(x))
    c[b, d, t] = x[b, t, d]
    e = conv1d(c, width, kernel=3, pad=2)
    y[b, t < time, d] = e[b, d, t]
    m[b, t < time, d] = max[u < 3](y[b, t - u, d, outside=-inf])
    x = x + m
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
