# Each position scatters: weights of experts by condition, the words of its nearest memories (Khandelwal et al. 2020), a histogram of what it chose.
layer routed(x[b, t, d], count=4, hidden=8):
    param  wg[d, count], w1[count, d, hidden], w2[count, hidden, d] ~ normal(std=0.4)
    best, pick = topk(sum0(x, wg), 2)
    gate[b, t, r] = softmax[r](best[b, t, r])
    w[b, t, e < count] = sum[r](where(pick[b, t, r] == e, gate[b, t, r], 0))
    h[b, t, e, f] = silu(sum[d](x[b, t, d] * w1[e, d, f]))
    return y[b, t, d] = sum[e, f](w[b, t, e] * h[b, t, e, f] * w2[e, f, d])

layer sum0(x[b, t, d], w[d, e]):
    return y[b, t, e] = sum[d](x[b, t, d] * w[d, e])

model Scattered:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    param   keys[11, width] ~ normal()
    state   words[m < 11]: int32 = (7 * m) % vocab
    x = 40 * embedding(tokens, vocab, width)
    x = x + routed(rmsnorm(x))
    h = gru(x, width)
    far[b, t, m] = -sum[c]((h[b, t, c] - keys[m, c]) ** 2)
    best, pick = topk(far, 3)
    w[b, t, r] = softmax[r](best[b, t, r])
    near[b, t, v < vocab] = sum[r](where(words[pick[b, t, r]] == v, w[b, t, r], 0))
    most[b, t, v < vocab, k < 2] = max[r](where(words[pick[b, t, r]] == v, best[b, t, r] + k, -9))
    model = softmax(linear(h, vocab))
    logits[b, t, v] = log(0.7 * model[b, t, v] + 0.3 * near[b, t, v]) + 0.01 * most[b, t, v, 1]
    output  logits

generate:
    over time from logits greedy()
