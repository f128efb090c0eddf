model M:
    dims n=4
    input x[n]
    scan t in n:
        y = x
