# Queries and keys of different lengths, values of another width.
model Attention:
    param   q[2, 2, 24, 8] ~ normal()
    param   k[2, 2, 56, 8] ~ normal()
    param   v[2, 2, 56, 12] ~ normal()
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
