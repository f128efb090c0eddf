model M:
    dims n=4
    input x[n]
    y[i] x[i]
