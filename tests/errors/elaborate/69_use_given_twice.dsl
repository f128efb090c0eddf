model M:
    input x[2, 3]
    f = use linear(4, out=5)
    y = f(x)
    output y
