model M:
    input x[2, 3]
    with frozen(7):
        y = linear(x, 2)
    output y
