# ResNet-50: bottlenecks of 1x1, 3x3 and 1x1 convolutions, 3, 4, 6 and 3 of them; stride 2 in the 3x3 ones.
layer conv_norm(x[n, c, p, q], out, kernel=1, stride=1, pad=0, act=true):
    y = batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))
    return relu(y) if act else y

layer bottleneck(x[n, c, p, q], width, stride=1):
    a = conv_norm(x, width)
    b = conv_norm(a, width, kernel=3, stride=stride, pad=1)
    d = conv_norm(b, 4*width, act=false)
    short = x if c == 4*width else conv_norm(x, 4*width, stride=stride, act=false)
    return relu(d + short)

model ResNet50:
    dims    batch=1, size=224
    let     classes=1000
    input   x[batch, 3, size, size]
    input   y[batch]: int32

    e = maxpool2d(conv_norm(x, 64, kernel=7, stride=2, pad=3), kernel=3, stride=2, pad=1)
    e = bottleneck(e, 64)
    repeat 2:
        e = bottleneck(e, 64)
    e = bottleneck(e, 128, stride=2)
    repeat 3:
        e = bottleneck(e, 128)
    e = bottleneck(e, 256, stride=2)
    repeat 5:
        e = bottleneck(e, 256)
    e = bottleneck(e, 512, stride=2)
    repeat 2:
        e = bottleneck(e, 512)
    param head[2048, classes] ~ normal(std=0.01)
    param bias[classes] ~ zeros()
    m = global_mean(e)
    logits[b, k] = sum[d](m[b, d] * head[d, k]) + bias[k]

    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
