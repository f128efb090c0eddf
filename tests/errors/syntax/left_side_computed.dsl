model M:
    dims n=4
    input x[n]
    a = x
    b = x
    y[2*i] = x[i]
