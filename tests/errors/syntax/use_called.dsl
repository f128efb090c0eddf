model M:
    dims n=4
    input x[n]
    y = use f(3)(x)
