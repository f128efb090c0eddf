# Hyena (Poli et al. 2023): gates around long convolutions whose filters are a small network of the position, under a window that decays. They are
# done by Fourier transforms while it is trained, and as the sums that they are where tokens come one by one.
layer implicit_filter(time, channels, hidden, bands=4):
    wave[t < time, i < 2 * bands + 1] = where(i == 0, t / time, where(i <= bands, sin(2 * pi * i * t / time), cos(2 * pi * (i - bands) * t / time)))
    h = linear(sin(10 * linear(sin(10 * linear(wave, hidden)), hidden)), channels)
    return y[t, c] = h[t, c] * exp(-t * (c + 1) / size(c) / 4)

layer convolved(x[b, t, c], h[k, c]):
    if training:
        y = long_convolution(x, h)
    else:
        y[b, t, c] = sum[k](x[b, t - k, c] * h[k, c])
    return y

layer hyena(x[b, t, d], order=2):
    param  short[d, order + 1, 3] ~ normal(std=0.5)
    p[b, t, o, d] = sum[u](linear(x, d * (order + 1))[b, t - u, d * (order + 1) + o] * short[d, o, u])
    v[b, t, d] = p[b, t, 0, d]
    repeat order as k:
        y = convolved(v, implicit_filter(size(t), d, 8))
        v[b, t, d] = p[b, t, k + 1, d] * y[b, t, d]
    return linear(v, d)

model Hyena:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + hyena(rmsnorm(x))
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
