model M:
    dims n=4
    input x[n]
    y = f(a=1, x)
