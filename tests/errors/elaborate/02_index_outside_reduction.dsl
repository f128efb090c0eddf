model M:
    dims n=2
    input x[n, 3]

    # the size of an index is size(d)
    y[n] = sum[d](x[n, d]) / d
    output y
