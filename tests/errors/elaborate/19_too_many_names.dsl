model M:
    dims n=2
    input x[n]

    #
    y, z = relu(x)
    output y
