# T5: trained biases of buckets that grow with the distance.
model Attention:
    param   q[2, 2, 40, 8] ~ normal()
    param   k[2, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    param   u[16, 2] ~ normal()
    d[i < 40, j < 40] = max(i - j, 0)
    bucket[i, j] = where(d[i, j] < 8, d[i, j], min(8 + int32(log(max(d[i, j], 1) / 8) / log(4.0) * 8), 15))
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))
    t[b, h, i, j] = s[b, h, i, j] + u[bucket[i, j], h]
    p[b, h, i, j] = softmax[j](t[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1)) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
