model M:
    dims n=4
    input x[n]
    let a == 3
