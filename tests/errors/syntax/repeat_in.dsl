model M:
    dims n=4
    input x[n]
    repeat i in 3:
        y = x
