model M:
    dims n=2
    input x[n, 3]

    # q is bound nowhere
    y[n] = x[n, q]
    output y
