# digits_cnn.dsl — handwritten digits with a small convolutional network.
#   learns    to name 8x8 images of handwritten digits
#   expect    at least 98% right on held-out digits, in about a minute: dslc train examples/digits_cnn.dsl
layer unit(x[n, c, p, q], out):
    return relu(batchnorm(conv2d(x, out, kernel=3, pad=1)))

model DigitsCNN:
    dims    batch=64
    let     classes=10
    input   image[batch, 64], label[batch]: int32

    x[n, c < 1, p < 8, q < 8] = image[n, 8*p + q + c]
    x = unit(unit(x, 16), 32)
    x = unit(maxpool2d(x, 2), 64)
    logits = linear(dropout(global_mean(x), 0.1), classes)

    output  logits
    loss    cross_entropy(logits, label)
    metric  accuracy[b] = argmax[k](logits[b, k]) == label[b]

train:
    data       digits(split=0.2)
    epochs     25
    optimizer  adamw(lr=cosine(peak=5e-3, warmup=20), weight_decay=0.01)
    seed       0
