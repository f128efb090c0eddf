model M:
    dims b=2, d=3
    input x[b, d]

    #
    y[b] = sum[d < 3](1.0 * x)
    output y
