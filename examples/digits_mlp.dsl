# digits_mlp.dsl — handwritten digits with a multilayer perceptron. Its twin in YAML is digits_mlp.yaml: the same losses, to the bit.
#   learns    to name 8x8 images of handwritten digits (scikit-learn's, real scans)
#   expect    at least 96% right on held-out digits, in seconds: dslc train examples/digits_mlp.dsl
model DigitsMLP:
    dims    batch=64
    let     classes=10
    input   image[batch, 64], label[batch]: int32

    h1 = dropout(relu(linear(image, 128)), 0.1)
    h2 = relu(linear(h1, 64))
    logits = linear(h2, classes)

    output  logits
    loss    cross_entropy(logits, label)
    metric  accuracy[b] = argmax[k](logits[b, k]) == label[b]

train:
    data       digits(split=0.2)
    epochs     30
    optimizer  adamw(lr=cosine(peak=3e-3, warmup=20), weight_decay=0.01)
    seed       0
