# Batch statistics with states; groups of channels.
layer batchnorm(x[n, c, ...], momentum=0.1, eps=1e-5):
    param gain[c] ~ ones();   param bias[c] ~ zeros()
    state mean[c] ~ zeros();  state var[c] ~ ones()
    if training:
        m[c] = mean[n, ...](x[n, c, ...])
        v[c] = mean[n, ...]((x[n, c, ...] - m[c]) ** 2)
        mean[c] <- (1 - momentum) * mean[c] + momentum * m[c]
        var[c] <- (1 - momentum) * var[c] + momentum * v[c]
    else:
        m = mean;  v = var
    return y[n, c, ...] = (x[n, c, ...] - m[c]) * rsqrt(v[c] + eps) * gain[c] + bias[c]

layer groupnorm(x[n, c, p, q], groups=8, eps=1e-5):
    let k = c // groups
    param gain[c] ~ ones();  param bias[c] ~ zeros()
    m[n, g < groups] = mean[k < k, p, q](x[n, g * size(k) + k, p, q])
    v[n, g < groups] = mean[k < k, p, q]((x[n, g * size(k) + k, p, q] - m[n, g]) ** 2)
    return y[n, c, p, q] = (x[n, c, p, q] - m[n, c // k]) * rsqrt(v[n, c // k] + eps) * gain[c] + bias[c]

model M:
    input x[3, 6, 4, 4]
    batchnorm = use batchnorm()
    output y = batchnorm(x), z = groupnorm(x, groups=3)
    loss mean(y ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
