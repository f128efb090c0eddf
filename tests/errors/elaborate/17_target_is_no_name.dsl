model M:
    dims n=2
    input x[n]

    #
    f(x) = x
    output x
