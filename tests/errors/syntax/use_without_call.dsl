model M:
    dims n=4
    input x[n]
    f = use linear
