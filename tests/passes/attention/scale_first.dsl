# The scale on the queries.
model Attention:
    param   q[2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    r[b, h, i, c] = q[b, h, i, c] * 0.3535
    s[b, h, i, j] = sum[c](r[b, h, i, c] * k[b, h, j, c])
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
