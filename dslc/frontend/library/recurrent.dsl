# Recurrent layers over t; every one maps x[b, t, i] to y[b, t, hidden].

layer rnn(x[b, t, i], hidden, act=tanh):
    param wx[i, hidden], wh[hidden, hidden] ~ xavier_uniform()
    param bias[hidden] ~ zeros()
    scan t carry h[b, hidden] = 0:
        h[b, u] = act(sum[i](x[b, t, i] * wx[i, u]) + sum[v](h[b, v] * wh[v, u]) + bias[u])
        emit y[b, t, u] = h[b, u]
    return y

# gates: input, forget, cell, output (Hochreiter and Schmidhuber 1997, Gers et al. 2000)
layer lstm(x[b, t, i], hidden):
    param wx[i, 4, hidden], wh[hidden, 4, hidden] ~ xavier_uniform()
    param bias[4, hidden] ~ zeros()
    scan t carry h[b, hidden] = 0, c[b, hidden] = 0:
        z[b, g, u] = sum[i](x[b, t, i] * wx[i, g, u]) + sum[v](h[b, v] * wh[v, g, u]) + bias[g, u]
        c[b, u] = sigmoid(z[b, 1, u]) * c[b, u] + sigmoid(z[b, 0, u]) * tanh(z[b, 2, u])
        h[b, u] = sigmoid(z[b, 3, u]) * tanh(c[b, u])
        emit y[b, t, u] = h[b, u]
    return y

# the gates also see the cell
layer peephole_lstm(x[b, t, i], hidden):
    param wx[i, 4, hidden], wh[hidden, 4, hidden] ~ xavier_uniform()
    param bias[4, hidden], peep[3, hidden] ~ zeros()
    scan t carry h[b, hidden] = 0, c[b, hidden] = 0:
        z[b, g, u] = sum[i](x[b, t, i] * wx[i, g, u]) + sum[v](h[b, v] * wh[v, g, u]) + bias[g, u]
        old[b, u] = c[b, u]
        c[b, u] = sigmoid(z[b, 1, u] + peep[1, u] * old[b, u]) * old[b, u] + sigmoid(z[b, 0, u] + peep[0, u] * old[b, u]) * tanh(z[b, 2, u])
        h[b, u] = sigmoid(z[b, 3, u] + peep[2, u] * c[b, u]) * tanh(c[b, u])
        emit y[b, t, u] = h[b, u]
    return y

# gates: update, reset, new (Cho et al. 2014, with the reset gate after the product, as in torch)
layer gru(x[b, t, i], hidden):
    param wx[i, 3, hidden], wh[hidden, 3, hidden] ~ xavier_uniform()
    param bias[3, hidden], hbias[3, hidden] ~ zeros()
    scan t carry h[b, hidden] = 0:
        a[b, g, u] = sum[i](x[b, t, i] * wx[i, g, u]) + bias[g, u]
        r[b, g, u] = sum[v](h[b, v] * wh[v, g, u]) + hbias[g, u]
        z[b, u] = sigmoid(a[b, 0, u] + r[b, 0, u])
        n[b, u] = tanh(a[b, 2, u] + sigmoid(a[b, 1, u] + r[b, 1, u]) * r[b, 2, u])
        h[b, u] = (1 - z[b, u]) * n[b, u] + z[b, u] * h[b, u]
        emit y[b, t, u] = h[b, u]
    return y

layer reversed(x[b, t, d]):
    return y[b, t, d] = x[b, size(t) - 1 - t, d]

layer bidirectional(x[b, t, i], hidden, cell=lstm):
    forward = cell(x, hidden)
    backward = reversed(cell(reversed(x), hidden))
    return concat(forward, backward, axis=-1)

layer stacked(x[b, t, i], hidden, layers=2, cell=lstm, drop=0.0):
    repeat layers as k:
        x = cell(x, hidden)
        if k < layers - 1:
            x = dropout(x, drop)
    return x
