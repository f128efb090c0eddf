model M:
    dims n=4
    input x[n]
    y = 2 x
