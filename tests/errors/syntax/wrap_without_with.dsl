model M:
    dims n=4
    input x[n]
    wrap "a" f()
