# MobileNetV2: inverted residuals, a depthwise 3x3 convolution between two 1x1 ones; widths, repeats and strides of the paper.
layer conv_norm(x[n, c, p, q], out, kernel=1, stride=1, pad=0, act=true):
    y = batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))
    return min(relu(y), 6) if act else y

layer inverted(x[n, c, p, q], out, expand=6, stride=1):
    h = x if expand == 1 else conv_norm(x, expand*c)
    z = batchnorm(depthwise_conv2d(h, kernel=3, stride=stride, pad=1))
    y = conv_norm(min(relu(z), 6), out, act=false)
    return x + y if stride == 1 and c == out else y

model MobileNetV2:
    dims    batch=1, size=224
    let     classes=1000
    input   x[batch, 3, size, size]

    e = conv_norm(x, 32, kernel=3, stride=2, pad=1)
    e = inverted(e, 16, expand=1)
    e = inverted(inverted(e, 24, stride=2), 24)
    e = inverted(e, 32, stride=2)
    repeat 2:
        e = inverted(e, 32)
    e = inverted(e, 64, stride=2)
    repeat 3:
        e = inverted(e, 64)
    repeat 3:
        e = inverted(e, 96)
    e = inverted(e, 160, stride=2)
    repeat 2:
        e = inverted(e, 160)
    e = conv_norm(inverted(e, 320), 1280)
    param head[1280, classes] ~ normal(std=0.01)
    param bias[classes] ~ zeros()
    m = global_mean(e)
    logits[b, k] = sum[d](m[b, d] * head[d, k]) + bias[k]

    output  logits
