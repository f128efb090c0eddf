model M:
    dims n=4
    input x[n]
    while n > 3:
        y=x
