model LM:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   w[width, vocab] ~ normal(std=0.3)
    logits[b, v, t] = sum[d](h[b, t, d] * w[d, v])
    nll[b, t] = logsumexp[v](logits[b, v, t]) - logits[b, targets[b, t], t]
    loss    mean(nll)
train:
    optimizer  sgd(lr=1.0)
