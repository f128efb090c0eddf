model M:
    dims n=4
    input x[n]
    else: y = x
