model M:
    dims n=2, n=3
    input x[n]
    output y = x
