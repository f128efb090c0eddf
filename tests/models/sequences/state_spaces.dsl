# A diagonal state space as a scan and as its convolution (Gu et al. 2022), and the dual form of a scalar decay (Dao and Gu 2024).
layer diagonal(x[b, t, d], n):
    param  a[d, n], c[d, n] ~ normal(std=1.0)
    scan t carry h[b, d, n] = 0:
        h[b, d, n] = sigmoid(a[d, n]) * h[b, d, n] + x[b, t, d]
        emit y[b, t, d] = sum[n](c[d, n] * h[b, d, n])
    return y

layer by_convolution(x[b, t, d], n):
    param  a[d, n], c[d, n] ~ normal(std=1.0)
    filter[u < size(t), d] = sum[n](c[d, n] * sigmoid(a[d, n]) ** float32(u))
    return y[b, t, d] = sum[u](x[b, t - u, d] * filter[u, d])

layer dual(x[b, t, d], n):
    param  wb[d, n], wc[d, n] ~ xavier_uniform()
    param  wa[d] ~ normal(std=0.5)
    la[b, t] = -softplus(sum[d](x[b, t, d] * wa[d]))
    total[b, t] = cumsum[t](la[b, t])
    s[b, i, j] = sum[n](sum[d](x[b, i, d] * wc[d, n]) * sum[d](x[b, j, d] * wb[d, n]))
    m[b, i, j] = where(j <= i, exp(total[b, i] - total[b, j]) * s[b, i, j], 0)
    return y[b, i, d] = sum[j](m[b, i, j] * x[b, j, d])

model StateSpaces:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + diagonal(rmsnorm(x), 3)
    x = x + by_convolution(rmsnorm(x), 3)
    x = x + dual(rmsnorm(x), 3)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
