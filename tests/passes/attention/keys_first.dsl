# Scores with keys before queries.
model Attention:
    param   q[2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    s[b, h, j, i] = sum[c](k[b, h, j, c] * q[b, h, i, c]) / sqrt(size(c))
    p[b, h, j, i] = softmax[j](where(j <= i, s[b, h, j, i], -inf))
    o[b, h, i, c] = sum[j](p[b, h, j, i] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
