model M:
    input x[2, 3]
    y[a, b] = softmax[b](x[a, b], axis=7)
    output y
