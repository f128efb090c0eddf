model M:
    dims n=2
    input x[n]

    #
    y[2*i] = x[i]
    output y
