# A recommendation model: 26 tables of embeddings, their products in pairs, and a perceptron; two classes, clicked or not.
model Recommender:
    dims    batch=512
    let     tables=26, rows=2000, width=32
    input   x[batch, tables]: int32
    input   y[batch]: int32

    param   table[tables, rows, width] ~ normal(std=0.05)
    param   w1[tables, tables, 256], w2[256, 128], w3[128, 2] ~ normal(std=0.05)
    param   b1[256], b2[128] ~ zeros()
    e[b, f, d] = table[f, x[b, f], d]
    p[b, f, g] = sum[d](e[b, f, d] * e[b, g, d])
    h[b, k] = relu(sum[f, g](p[b, f, g] * w1[f, g, k]) + b1[k])
    z[b, k] = relu(sum[j](h[b, j] * w2[j, k]) + b2[k])
    logits[b, k] = sum[j](z[b, j] * w3[j, k])

    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
