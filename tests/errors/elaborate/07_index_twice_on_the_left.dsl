model M:
    dims n=2
    input x[n]

    #
    y[i, i] = x[i]
    output y
