model LM:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   scale[width] ~ ones()
    param   w[vocab, width] ~ normal(std=0.3)
    x[b, t, d] = h[b, t, d] * scale[d]
    logits[b, t, v] = sum[d](x[b, t, d] * w[v, d])
    q[b, t, v < vocab] = where(v == targets[b, t], 0.9, 0.1 / (vocab - 1))
    nll[b, t] = -sum[v](q[b, t, v] * log_softmax[v](logits[b, t, v]))
    loss    mean(nll)
train:
    optimizer  sgd(lr=1.0)
