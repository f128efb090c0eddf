model M:
    dims n=2, d=3
    input x[n, d]

    #
    y[n, d] =  x[n]
    output y
