model M:
    input x[2, 3]
    y[n, d] = softmax[](x[n, d])
    output y
