# A memory that forgets what it writes over (Schlag et al. 2021), gated.
layer delta(x[b, t, d]):
    param  w[3, d, d], forget[d], rate[d] ~ normal(std=0.5)
    z[n, b, t, e] = sum[d](x[b, t, d] * w[n, d, e])
    a[b, t] = sigmoid(sum[d](x[b, t, d] * forget[d]))
    r[b, t] = sigmoid(sum[d](x[b, t, d] * rate[d]))
    k[b, t, e] = z[1, b, t, e] * rsqrt(sum[f](z[1, b, t, f] ** 2) + 1e-6)
    scan t carry s[b, d, d] = 0:
        old[b, e] = sum[m](s[b, m, e] * k[b, t, m])
        s[b, m, e] = a[b, t] * s[b, m, e] + r[b, t] * k[b, t, m] * (z[2, b, t, e] - old[b, e])
        emit y[b, t, e] = sum[m](z[0, b, t, m] * s[b, m, e])
    return y

model DeltaRule:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    repeat 2:
        x = x + delta(rmsnorm(x))
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
