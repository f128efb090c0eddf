model M:
    dims n=4
    input x[n]
    y = f(x[n)
