model M:
    dims n=4
    input x[n]
    let not = 3
