model M:
    dims n=4
    input x[n]
    y = x
    z = x
    y[n, n] = x[n]
