# Normalizations.

layer layernorm(x[..., d], eps=1e-5, bias=true):
    param scale[d] ~ ones()
    param shift[d] ~ zeros() if bias
    mu[...] = mean[d](x[..., d])
    var[...] = mean[d]((x[..., d] - mu[...]) ** 2)
    y[..., d] = (x[..., d] - mu[...]) * rsqrt(var[...] + eps) * scale[d]
    return z[..., d] = y[..., d] + shift[d] if bias else y[..., d]

layer rmsnorm(x[..., d], eps=1e-6):
    param scale[d] ~ ones()
    r[...] = rsqrt(mean[d](x[..., d] ** 2) + eps)
    return y[..., d] = x[..., d] * r[...] * scale[d]

# Statistics of the batch in training, running ones otherwise; the running variance is the unbiased one, as in torch.
layer batchnorm(x[n, c, ...], momentum=0.1, eps=1e-5, affine=true):
    param gain[c] ~ ones() if affine
    param bias[c] ~ zeros() if affine
    state mean[c] ~ zeros()
    state var[c] ~ ones()
    if training:
        mu[c] = mean[n, ...](x[n, c, ...])
        sq[c] = mean[n, ...]((x[n, c, ...] - mu[c]) ** 2)
        count[c] = sum[n, ...](where(true, 1.0, x[n, c, ...]))
        mean[c] <- (1 - momentum) * mean[c] + momentum * mu[c]
        var[c] <- (1 - momentum) * var[c] + momentum * sq[c] * count[c] / max(count[c] - 1, 1)
    else:
        mu = mean
        sq = var
    y[n, c, ...] = (x[n, c, ...] - mu[c]) * rsqrt(sq[c] + eps)
    return z[n, c, ...] = y[n, c, ...] * gain[c] + bias[c] if affine else y[n, c, ...]

layer groupnorm(x[n, c, ...], groups, eps=1e-5, affine=true):
    let  per = c // groups
    param gain[c] ~ ones() if affine
    param bias[c] ~ zeros() if affine
    mu[n, g < groups] = mean[k < per, ...](x[n, g * per + k, ...])
    var[n, g < groups] = mean[k < per, ...]((x[n, g * per + k, ...] - mu[n, g]) ** 2)
    y[n, c, ...] = (x[n, c, ...] - mu[n, c // per]) * rsqrt(var[n, c // per] + eps)
    return z[n, c, ...] = y[n, c, ...] * gain[c] + bias[c] if affine else y[n, c, ...]

layer instancenorm(x[n, c, ...], eps=1e-5, affine=true):
    return groupnorm(x, c, eps=eps, affine=affine)
