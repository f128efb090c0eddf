# ResNet-18: pairs of 3x3 convolutions around a residual, two at each width.
layer conv_norm(x[n, c, p, q], out, kernel=3, stride=1, pad=1, act=true):
    y = batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))
    return relu(y) if act else y

layer basic_block(x[n, c, p, q], width, stride=1):
    a = conv_norm(x, width, stride=stride)
    b = conv_norm(a, width, act=false)
    short = x if c == width else conv_norm(x, width, kernel=1, stride=stride, pad=0, act=false)
    return relu(b + short)

model ResNet18:
    dims    batch=1, size=224
    let     classes=1000
    input   x[batch, 3, size, size]

    e = maxpool2d(conv_norm(x, 64, kernel=7, stride=2, pad=3), kernel=3, stride=2, pad=1)
    e = basic_block(basic_block(e, 64), 64)
    e = basic_block(basic_block(e, 128, stride=2), 128)
    e = basic_block(basic_block(e, 256, stride=2), 256)
    e = basic_block(basic_block(e, 512, stride=2), 512)
    param head[512, classes] ~ normal(std=0.01)
    param bias[classes] ~ zeros()
    m = global_mean(e)
    logits[b, k] = sum[d](m[b, d] * head[d, k]) + bias[k]

    output  logits
