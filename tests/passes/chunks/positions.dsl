model LM:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   scale[width] ~ ones()
    param   w[vocab, width] ~ normal(std=0.3)
    x[b, t, d] = h[b, t, d] * scale[d]
    logits[b, t, v] = sum[d](x[b, t, d] * w[v, d])
    nll[b, t] = (t + 1) * (logsumexp[v](where(v < vocab - t, logits[b, t, v], -1e9)) - logits[b, t, 0])
    loss    mean(nll)
train:
    optimizer  sgd(lr=1.0)
