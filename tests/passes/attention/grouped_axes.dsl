# Grouped queries with an axis for the group.
model Attention:
    param   q[2, 2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    s[b, h, g, i, j] = sum[c](q[b, h, g, i, c] * k[b, h, j, c]) / sqrt(size(c))
    p[b, h, g, i, j] = softmax[j](where(j <= i, s[b, h, g, i, j], -inf))
    o[b, h, g, i, c] = sum[j](p[b, h, g, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
