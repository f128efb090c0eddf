model LM:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   scale[width] ~ ones()
    param   w[vocab, width] ~ normal(std=0.3)
    x[b, t, d] = h[b, t, d] * scale[d]
    logits[b, t, v] = sum[d](x[b, t, d] * w[v, d])
    loss    cross_entropy(logits, targets, smoothing=0.1)
train:
    optimizer  sgd(lr=1.0)
