model M:
    dims n=3
    input x[n]
    y[i] = x[i] * -[i, 0]
    output y
