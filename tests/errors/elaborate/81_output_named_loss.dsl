model M:
    input x[2, 3]
    output loss = 2 * x
    loss mean(x)
