model M:
    dims n=4
    input x[n]
    3 = x
