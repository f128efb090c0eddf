model M:
    dims n=4
    input x[n]
    for i in range(3):
        y = x
