model M:
    dims n=4
    input x[n]
    y = x is 3
