model M:
    dims n=2
    input x[n]

    #
    y = relux(x)
    output y
