# exp of the shifted score, its maximum taken by hand.
model Attention:
    param   q[2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    m[b, h, i] = max[j](s[b, h, i, j])
    e[b, h, i, j] = exp(s[b, h, i, j] - stop_gradient(m[b, h, i]))
    o[b, h, i, c] = sum[j](e[b, h, i, j] * v[b, h, j, c]) / sum[j](e[b, h, i, j])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
