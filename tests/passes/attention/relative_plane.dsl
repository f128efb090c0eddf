# Swin's windows: points of a plane, a trained bias of each distance along both axes.
model Attention:
    param   q[3, 2, 6, 7, 8] ~ normal()
    param   k[3, 2, 6, 7, 8] ~ normal()
    param   v[3, 2, 6, 7, 8] ~ normal()
    param   u[2, 11, 13] ~ normal()
    s[b, h, y, x, m, n] = sum[c](q[b, h, y, x, c] * k[b, h, m, n, c]) / sqrt(size(c))
    t[b, h, y, x, m, n] = s[b, h, y, x, m, n] + u[h, y - m + 5, x - n + 6]
    e[b, h, y, x, m, n] = exp(t[b, h, y, x, m, n] - max[r, w](t[b, h, y, x, r, w]))
    z[b, h, y, x] = sum[m, n](e[b, h, y, x, m, n])
    o[b, h, y, x, c] = sum[m, n](e[b, h, y, x, m, n] * v[b, h, m, n, c]) / z[b, h, y, x]
    output  o
    loss    mean(o * sin(o + 1)) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
