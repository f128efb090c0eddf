model M:
    dims n=4
    input x[n]
    y relu(x)
