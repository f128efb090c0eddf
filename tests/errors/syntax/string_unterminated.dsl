model M:
    dims n=4
    input x[n]
    y = "abc
    z = 3
