model M:
    dims n=2
    input x[n, n]

    #
    y[b] = sum[b](x[b, 0])
    output y
