model M:
    dims b=2, d=3
    input x[b, d]

    #
    y[b] = mean(x[b, d])
    output y
