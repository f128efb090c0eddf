model M:
    input x[3]
    loss x
