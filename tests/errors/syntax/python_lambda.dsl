model M:
    dims n=4
    input x[n]
    y = map(lambda a: a, x)
