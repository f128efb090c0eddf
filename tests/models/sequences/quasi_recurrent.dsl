# A convolution that gates a scan (Bradbury et al. 2017).
layer qrnn(x[b, t, i], hidden, width=2):
    param  w[3, i, hidden, width] ~ xavier_uniform()
    z[g, b, t, u] = sum[i, k](x[b, t - k, i] * w[g, i, u, k])
    scan t carry c[b, hidden] = 0:
        c[b, u] = sigmoid(z[1, b, t, u]) * c[b, u] + (1 - sigmoid(z[1, b, t, u])) * tanh(z[0, b, t, u])
        emit y[b, t, u] = sigmoid(z[2, b, t, u]) * c[b, u]
    return y

model QuasiRecurrent:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = qrnn(x, width)
    x = x + qrnn(x, width, width=3)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
