model M:
    input x[3]
    loss
    output x
