# The hidden states are joined along the tokens.
model LM:
    dims    batch=3, time=7
    let     vocab=30, width=20
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   start[width] ~ ones()
    param   w[width, vocab] ~ normal(std=0.3)
    first[b < batch, t < 1, d] = start[d]
    rest[b, t < 6, d] = h[b, t, d] * start[d]
    x = concat(first, rest, axis=1)
    logits[b, t, v] = sum[d](x[b, t, d] * w[d, v])
    loss    cross_entropy(logits, targets)
train:
    optimizer  sgd(lr=1.0)
