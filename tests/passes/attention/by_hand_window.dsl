# A sliding window with softmax written out: its gradient looks for the places of the maximum.
model Attention:
    param   q[2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    t[b, h, i, j] = where(j <= i and i - j < 9, s[b, h, i, j], -inf)
    m[b, h, i] = max[j](t[b, h, i, j])
    e[b, h, i, j] = exp(t[b, h, i, j] - m[b, h, i])
    z[b, h, i] = sum[j](e[b, h, i, j])
    o[b, h, i, c] = sum[j](e[b, h, i, j] * v[b, h, j, c]) / z[b, h, i]
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
