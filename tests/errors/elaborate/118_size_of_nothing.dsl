model M:
    input x[3]
    y[i] = x[i] / size()
    output y
