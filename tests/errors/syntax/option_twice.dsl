model M:
    dims n=4
    input x[n]
    y = f(x, a=1, a=2)
