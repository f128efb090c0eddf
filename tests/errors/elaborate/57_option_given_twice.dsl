model M:
    input x[2, 3]
    output y = linear(x, 4, out=5)
