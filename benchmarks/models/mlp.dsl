# A multilayer perceptron, 784-512-512-10: the smallest network whose speed is worth a figure.
model MLP:
    dims    batch=128
    input   x[batch, 784]
    input   y[batch]: int32

    param w1[784, 512], w2[512, 512], w3[512, 10] ~ xavier_uniform()
    param b1[512], b2[512], b3[10] ~ zeros()
    h1[n, k] = relu(sum[i](x[n, i] * w1[i, k]) + b1[k])
    h2[n, k] = relu(sum[i](h1[n, i] * w2[i, k]) + b2[k])
    logits[n, k] = sum[i](h2[n, i] * w3[i, k]) + b3[k]

    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
