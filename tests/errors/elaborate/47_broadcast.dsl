model M:
    input x[3], y[4]
    output z = x + y
