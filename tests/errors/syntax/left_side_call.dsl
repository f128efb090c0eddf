model M:
    dims n=4
    input x[n]
    a = x
    b = x
    f(x)[b] = 3
