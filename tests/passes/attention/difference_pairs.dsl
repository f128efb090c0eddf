# The difference of the softmaxes of neighbouring heads, by hand.
model Attention:
    param   q[4, 2, 40, 8] ~ normal()
    param   k[4, 2, 40, 8] ~ normal()
    param   v[2, 2, 40, 8] ~ normal()
    s[h, b, i, j] = sum[c](q[h, b, i, c] * k[h, b, j, c]) / sqrt(size(c))
    e[h, b, i, j] = where(j <= i, exp(s[h, b, i, j] - max[r](s[h, b, i, r])), 0)
    p[h, b, i, j] = e[h, b, i, j] / sum[r](e[h, b, i, r])
    o[b, h < 2, i, c] = sum[j]((p[2 * h, b, i, j] - 0.4 * p[2 * h + 1, b, i, j]) * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
