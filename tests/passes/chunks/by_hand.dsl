model LM:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   scale[width] ~ ones()
    param   w[vocab, width] ~ normal(std=0.3)
    x[b, t, d] = h[b, t, d] * scale[d]
    logits[b, t, v] = sum[d](x[b, t, d] * w[v, d])
    top[b, t] = max[v](logits[b, t, v])
    total[b, t] = log(sum[v](exp(logits[b, t, v] - top[b, t]))) + top[b, t]
    hit[b, t] = sum[v](where(v == targets[b, t], logits[b, t, v], 0))
    loss    mean(total - hit)
train:
    optimizer  sgd(lr=1.0)
