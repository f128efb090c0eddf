model LM:
    dims    rows=24, width=6
    input   h[rows, width]
    input   targets[rows]: int32
    param   turn[width, width] ~ normal(std=0.7)
    x[n, e] = sum[d](h[n, d] * turn[d, e])
    s[n < rows, m < rows] = sum[e](x[n, e] * x[m, e])
    total[n] = logsumexp[m](where(m == n, -1e9, s[n, m]))
    nll[n < rows] = total[n] - s[n, targets[n]]
    loss    mean(nll)
train:
    optimizer  sgd(lr=1.0)
