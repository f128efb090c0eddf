# Recurrent layers: peepholes, a start from outside, both directions, quasi-recurrent, a hidden Markov model.
layer peephole(x[b, t, i], hidden):
    param wx[i, 4, hidden], wh[hidden, 4, hidden] ~ xavier_uniform();  param bias[4, hidden], peep[3, hidden] ~ zeros()
    scan t carry h[b, hidden] = 0, c[b, hidden] = 0:
        z[b, g, u] = sum[i](x[b, t, i] * wx[i, g, u]) + sum[v](h[b, v] * wh[v, g, u]) + bias[g, u]
        old[b, u] = c[b, u]
        c[b, u] = sigmoid(z[b, 1, u] + peep[1, u] * old[b, u]) * old[b, u] + sigmoid(z[b, 0, u] + peep[0, u] * old[b, u]) * tanh(z[b, 2, u])
        h[b, u] = sigmoid(z[b, 3, u] + peep[2, u] * c[b, u]) * tanh(c[b, u])
        emit y[b, t, u] = h[b, u]
    return y, h, c                                          # after the scan, h and c are the last ones

layer gru(x[b, t, i], start[b, hidden]):
    param wx[i, 3, hidden], wh[hidden, 3, hidden] ~ xavier_uniform();  param bias[3, hidden] ~ zeros()
    scan t carry h = start:
        r[b, g, u] = sum[v](h[b, v] * wh[v, g, u])
        a[b, g, u] = sum[i](x[b, t, i] * wx[i, g, u]) + bias[g, u]
        z[b, u] = sigmoid(a[b, 0, u] + r[b, 0, u])
        n[b, u] = tanh(a[b, 2, u] + sigmoid(a[b, 1, u] + r[b, 1, u]) * r[b, 2, u])
        h[b, u] = (1 - z[b, u]) * n[b, u] + z[b, u] * h[b, u]
        emit y[b, t, u] = h[b, u]
    return y, h

layer reversed(x[b, t, d]):
    return y[b, t, d] = x[b, size(t) - 1 - t, d]

layer bidirectional(x[b, t, i], hidden):
    forward, h, c = peephole(x, hidden)
    backward, h, c = peephole(reversed(x), hidden)
    return concat(forward, reversed(backward), axis=-1)

layer qrnn(x[b, t, i], hidden, width=2):
    param w[3, i, hidden, width] ~ xavier_uniform()
    z[g, b, t, u] = sum[i, k](x[b, t - k, i] * w[g, i, u, k])
    scan t carry c[b, hidden] = 0:
        c[b, u] = sigmoid(z[1, b, t, u]) * c[b, u] + (1 - sigmoid(z[1, b, t, u])) * tanh(z[0, b, t, u])
        emit y[b, t, u] = sigmoid(z[2, b, t, u]) * c[b, u]
    return y

layer hmm(obs[b, t]: int32, states, symbols):
    param a[states, states], e[states, symbols], p[states] ~ normal(std=0.1)
    la[r, s] = log_softmax[s](a[r, s]);  le[s, o] = log_softmax[o](e[s, o]);  lp[s] = log_softmax[s](p[s])
    first[b, s] = lp[s] + le[s, obs[b, 0]]
    scan k < t - 1 carry f = first:
        f[b, s] = logsumexp[r](f[b, r] + la[r, s]) + le[s, obs[b, k + 1]]
    return ll[b] = logsumexp[s](f[b, s])

model M:
    input x[2, 5, 3], start[2, 4], obs[2, 5]: int32
    a = use peephole(4)
    b = use gru()
    y, h, c = a(x)
    z, last = b(x, start)
    output y, h, c, z, last, both = bidirectional(x, 4), quasi = qrnn(x, 4), ll = hmm(obs, 3, 4)
    loss mean(y ** 2) + mean(z ** 2) - mean(ll)

train:
    steps 3
    optimizer adam(lr=1e-3)
