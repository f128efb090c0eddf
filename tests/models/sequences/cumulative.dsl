# Running folds, and the same as masked folds.
model Cumulative:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    a[b, t, d] = cumsum[t](x[b, t, d]) / (t + 1)
    p[b, t, d] = cumprod[t](1 + 0.1 * tanh(x[b, t, d]))
    m[b, i < time, d] = max[j](where(j <= i, x[b, j, d], -inf))
    l[b, i < time, d] = logsumexp[j](where(j <= i, x[b, j, d], -inf))
    n[b, i < time, d] = sum[j](where(j <= i, x[b, j, d], 0)) / (i + 1)
    last[b, i < time] = argmax[j](where(j <= i, x[b, j, 0] + 0.01 * j, -inf))          # of equal tokens the last one
    x[b, t, d] = x[b, t, d] + a[b, t, d] + p[b, t, d] + m[b, t, d] + l[b, t, d] * n[b, t, d] + 0.3 * (t - last[b, t])
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
