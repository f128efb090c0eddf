model M:
    dims n=4
    input x[n]
    y[i + 1] = x[i] * i
