model M:
    dims n=2
    input x[n]

    # nothing reads at k
    y[n, k] = x[n]
    output y
