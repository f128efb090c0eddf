model M:
    input x[3], y[3]
    input x[4]
    output x
