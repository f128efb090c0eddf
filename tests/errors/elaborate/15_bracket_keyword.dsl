model M:
    dims n=2
    input x[n]

    #
    y[i < 2] = x[i - 1, fill=0]
    output y
