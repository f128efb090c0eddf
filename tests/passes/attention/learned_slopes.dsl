# ALiBi with trained slopes.
model Attention:
    param   q[2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    param   u[2] ~ normal(0.1)
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    t[b, h, i, j] = s[b, h, i, j] - u[h] * (i - j)
    p[b, h, i, j] = softmax[j](t[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1)) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
