model M:
    input x[3]
    output y = x
    output y = x + 1
