model M:
    dims n=4
    input x[n]
    y[0] = 3
