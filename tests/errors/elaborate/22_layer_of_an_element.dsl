model M:
    dims b=2, t=3, d=4
    input x[b, t, d]

    #
    #
    #
    #
    y[b, t, d] = rmsnorm(x[b, t, d])
    output y
