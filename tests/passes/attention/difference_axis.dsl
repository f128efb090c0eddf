# The difference of two softmaxes that lie along one axis.
model Attention:
    param   q[2, 2, 2, 40, 8] ~ normal()
    param   k[2, 2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    s[b, h, n, i, j] = sum[c](q[b, h, n, i, c] * k[b, h, n, j, c]) / sqrt(size(c))
    p[b, h, n, i, j] = softmax[j](where(j <= i, s[b, h, n, i, j], -inf))
    o[b, h, i, c] = sum[j]((p[b, h, 0, i, j] - 0.4 * p[b, h, 1, i, j]) * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
