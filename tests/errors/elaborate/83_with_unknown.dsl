model M:
    input x[2, 3]
    with checkpoint:
        y = x * 2
    output y
