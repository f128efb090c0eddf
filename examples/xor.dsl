# xor.dsl — the smallest network that needs a hidden layer.
#   learns    the exclusive or of two bits, from its four cases
#   expect    all four right after a second: dslc train examples/xor.dsl
model Xor:
    dims    batch=4
    input   x[batch, 2], y[batch]

    h = tanh(linear(x, 8))
    o = linear(h, 1)
    z[b] = o[b, 0]
    p = sigmoid(z)

    output  p
    loss    binary_cross_entropy(z, y)
    metric  right[b] = (p[b] > 0.5) == (y[b] > 0.5)

train:
    data       arrays(x=[[0, 0], [0, 1], [1, 0], [1, 1]], y=[0, 1, 1, 0])
    steps      500
    optimizer  adam(lr=0.05)
    seed       0
