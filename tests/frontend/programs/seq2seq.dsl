# Attention over a memory of other length; a concatenation by reads outside.
layer peephole(x[b, t, i], hidden):
    param wx[i, 4, hidden], wh[hidden, 4, hidden] ~ xavier_uniform();  param bias[4, hidden], peep[3, hidden] ~ zeros()
    scan t carry h[b, hidden] = 0, c[b, hidden] = 0:
        z[b, g, u] = sum[i](x[b, t, i] * wx[i, g, u]) + sum[v](h[b, v] * wh[v, g, u]) + bias[g, u]
        old[b, u] = c[b, u]
        c[b, u] = sigmoid(z[b, 1, u] + peep[1, u] * old[b, u]) * old[b, u] + sigmoid(z[b, 0, u] + peep[0, u] * old[b, u]) * tanh(z[b, 2, u])
        h[b, u] = sigmoid(z[b, 3, u] + peep[2, u] * c[b, u]) * tanh(c[b, u])
        emit y[b, t, u] = h[b, u]
    return y, h, c                                          # after the scan, h and c are the last ones

layer reversed(x[b, t, d]):
    return y[b, t, d] = x[b, size(t) - 1 - t, d]

layer bidirectional(x[b, t, i], hidden):
    forward, h, c = peephole(x, hidden)
    backward, h, c = peephole(reversed(x), hidden)
    return concat(forward, reversed(backward), axis=-1)

layer bahdanau_decoder(x[b, t, i], memory[b, s, m], length[b]: int32, hidden, out):
    param w1[hidden, hidden], w2[m, hidden], v[hidden], wx[i + m, 3, hidden], wh[hidden, 3, hidden], wo[hidden, out] ~ xavier_uniform()
    key[b, s, u] = sum[m](memory[b, s, m] * w2[m, u])
    scan t carry h[b, hidden] = 0:
        e[b, s] = sum[u](v[u] * tanh(sum[k](h[b, k] * w1[k, u]) + key[b, s, u]))
        a[b, s] = softmax[s](where(s < length[b], e[b, s], -inf))
        ctx[b, m] = sum[s](a[b, s] * memory[b, s, m])
        in[b, k < i + m] = x[b, t, k] + ctx[b, k - i]        # a concatenation: each read is 0 outside its own part
        z[b, g, u] = sum[k](in[b, k] * wx[k, g, u])
        r[b, g, u] = sum[k](h[b, k] * wh[k, g, u])
        f[b, u] = sigmoid(z[b, 0, u] + r[b, 0, u])
        h[b, u] = (1 - f[b, u]) * tanh(z[b, 2, u] + sigmoid(z[b, 1, u] + r[b, 1, u]) * r[b, 2, u]) + f[b, u] * h[b, u]
        emit y[b, t, o] = sum[u](h[b, u] * wo[u, o]), weights[b, t, s] = a[b, s]
    return y, weights
model Translate:
    dims batch=3, source=6, target=5
    let vocab=7, width=4
    input text[batch, source]: int32, length[batch]: int32, answer[batch, target]: int32
    memory = bidirectional(embedding(text, vocab, width), width)
    before[batch, target] = answer[batch, target - 1]
    logits, weights = bahdanau_decoder(embedding(before, vocab, width), memory, length, width, vocab)
    output logits, weights
    loss cross_entropy(logits, answer)

train:
    steps 3
    optimizer adam(lr=1e-3)

generate:
    over target from logits greedy()
