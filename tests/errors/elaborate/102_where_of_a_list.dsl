model M:
    dims n=3
    input x[n]
    y[i] = where(x[i] > 0, x[i], [i, 1])
    output y
