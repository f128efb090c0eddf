model M:
    input x[]
    let a = 1, b = 2
    output y = a if x > 0 else b
