model M:
    dims n=4
    input x[n]
    if n > 3:
            y = x
        z = x
