model M:
    input x[2, 3], y[2, 4]
    output z[b, ...] = x[b, ...] + y[b, ...]
