# Heads behind time, as projections give them.
model Attention:
    param   q[2, 40, 2, 8] ~ normal()
    param   k[2, 40, 2, 8] ~ normal()
    param   v[2, 40, 2, 8] ~ normal()
    s[b, h, i, j] = sum[c](q[b, i, h, c] * k[b, j, h, c]) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    o[b, i, h, c] = sum[j](p[b, h, i, j] * v[b, j, h, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
