model M:
    dims n=2, d=3
    input x[n, d]

    #
    y = linear(x, 3, true, 4)
    output y
