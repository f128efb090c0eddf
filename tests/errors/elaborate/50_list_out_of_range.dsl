model M:
    let sizes = [1, 2]
    input x[sizes[2]]
    output x
