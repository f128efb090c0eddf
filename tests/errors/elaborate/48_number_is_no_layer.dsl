model M:
    dims d=3
    input x[d]
    output z = d(x)
