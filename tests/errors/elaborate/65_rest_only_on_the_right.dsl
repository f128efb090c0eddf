model M:
    input x[2, 3, 4]
    output y[b] = x[b, ...] * 2
