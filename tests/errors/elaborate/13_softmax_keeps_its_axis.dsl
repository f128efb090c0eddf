model M:
    dims n=2, d=3
    input x[n, d]

    #
    y[n] =  softmax[d](x[n, d])
    output y
