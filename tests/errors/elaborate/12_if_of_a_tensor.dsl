model M:
    dims n=2
    input x[]
    let a = 1, b = 2
    #
    if x > 0:
        y = a * x
    output x
