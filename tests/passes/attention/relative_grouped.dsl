# Several heads of queries share keys; each has its own trained biases.
model Attention:
    param   q[2, 3, 2, 40, 8] ~ normal()
    param   k[2, 3, 40, 8] ~ normal()
    param   v[2, 3, 40, 8] ~ normal()
    param   u[3, 2, 79] ~ normal()
    s[b, h, g, i, j] = sum[c](q[b, h, g, i, c] * k[b, h, j, c]) / sqrt(size(c))
    t[b, h, g, i, j] = s[b, h, g, i, j] + u[h, g, i - j + 39]
    p[b, h, g, i, j] = softmax[j](t[b, h, g, i, j])
    o[b, h, g, i, c] = sum[j](p[b, h, g, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1)) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
