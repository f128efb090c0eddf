model M:
    dims n=4
    input x[n]
    y[i <= 3] = x[i]
