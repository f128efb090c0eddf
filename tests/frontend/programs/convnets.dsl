# Convolutional blocks: residual, inception, dense, separable.
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

layer unit(x[n, c, p, q], out, kernel=3, stride=1, groups=1, act=relu):
    return act(batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=kernel // 2, groups=groups)))

layer residual(x[n, c, p, q], out, stride=1):
    y = unit(x, out, stride=stride)
    y = batchnorm(conv2d(y, out, pad=1))
    same = x if stride == 1 and c == out else batchnorm(conv2d(x, out, kernel=1, stride=stride))
    return relu(y + same)

layer inception(x[n, c, p, q], a, b, d, e):
    pooled = unit(maxpool2d(x, 3, stride=1, pad=1), e, kernel=1)
    return concat(unit(x, a, kernel=1), unit(unit(x, b, kernel=1), b), unit(unit(x, d, kernel=1), d, kernel=5), pooled, axis=1)

layer dense_block(x[n, c, p, q], turns, growth):
    repeat turns:
        x = concat(x, conv2d(relu(batchnorm(x)), growth, pad=1), axis=1)
    return x

layer separable(x[n, c, p, q], out):
    return unit(unit(x, c, groups=c), out, kernel=1)

layer global_mean(x[n, c, p, q]):
    return y[n, c] = mean[p, q](x[n, c, p, q])

model M:
    dims batch=2
    input image[batch, 3, 8, 8], label[batch]: int32
    x = residual(unit(image, 8), 16, stride=2)
    x = inception(x, 4, 4, 4, 4)
    x = separable(dense_block(x, 2, 4), 8)
    logits = linear(global_mean(x), 5)
    output logits
    loss cross_entropy(logits, label)
    metric accuracy = mean(argmax(logits, axis=-1) == label)

train:
    steps 3
    optimizer adam(lr=1e-3)
