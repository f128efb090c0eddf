model M:
    input x[2, 3]
    output y = categorical(x)
