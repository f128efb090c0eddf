# A U-Net of three levels over 128x128 pictures, 32 channels at the top, five classes a pixel.
layer conv_norm(x[n, c, p, q], out):
    return relu(batchnorm(conv2d(x, out, kernel=3, pad=1)))

layer pair(x[n, c, p, q], out):
    return conv_norm(conv_norm(x, out), out)

model UNet:
    dims    batch=2, size=128
    let     width=32, classes=5
    input   x[batch, 3, size, size]
    input   y[batch, size, size]: int32

    a = pair(x, width)
    b = pair(maxpool2d(a), 2*width)
    c = pair(maxpool2d(b), 4*width)
    m = pair(maxpool2d(c), 8*width)
    e = pair(concat(conv_transpose2d(m, 4*width, kernel=2, stride=2), c, axis=1), 4*width)
    e = pair(concat(conv_transpose2d(e, 2*width, kernel=2, stride=2), b, axis=1), 2*width)
    e = pair(concat(conv_transpose2d(e, width, kernel=2, stride=2), a, axis=1), width)
    z = conv2d(e, classes, kernel=1)
    logits[n, i, j, k] = z[n, k, i, j]

    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
