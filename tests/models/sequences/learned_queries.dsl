# Queries that are the positions' own: attention whose weights the past alone decides.
layer by_position(x[b, t, d]):
    param  q[t, d] ~ normal(std=1.0)
    s[b, i, j] = where(j <= i, sum[d](q[i, d] * x[b, j, d]), -inf)
    p[b, i, j] = softmax[j](s[b, i, j])
    return y[b, i, d] = sum[j](p[b, i, j] * x[b, j, d])

model LearnedQueries:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + by_position(rmsnorm(x))
    x = x + by_position(rmsnorm(x))
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
