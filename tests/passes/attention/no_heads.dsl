# One head, no batch.
model Attention:
    param   q[40, 8] ~ normal()
    param   k[40, 8] ~ normal()
    param   v[40, 8] ~ normal()
    input   x[40, 8]
    a[i, c] = q[i, c] + x[i, c]
    d[i, c] = k[i, c] + x[i, c]
    f[i, c] = v[i, c] + x[i, c]
    s[i, j] = sum[c](a[i, c] * d[j, c]) / sqrt(size(c))
    p[i, j] = softmax[j](where(j <= i, s[i, j], -inf))
    o[i, c] = sum[j](p[i, j] * f[j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
