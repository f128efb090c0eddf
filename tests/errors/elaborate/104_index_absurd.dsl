model M:
    input x[3]
    y[i < 3] = x[1e30]
    output y
