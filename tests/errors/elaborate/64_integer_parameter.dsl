model M:
    input x[4]
    param w[4]: int32 ~ zeros()
    output y = x * w
