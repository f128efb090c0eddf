model M:
    input x[2, 3]
    y[a, b] = x[a, b] * (-"s")
    output y
