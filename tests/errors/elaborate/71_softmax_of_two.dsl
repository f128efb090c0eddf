model M:
    input x[2, 3]
    y = softmax(x, x)
    output y
