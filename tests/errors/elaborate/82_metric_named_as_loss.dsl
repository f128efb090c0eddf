model M:
    input x[2, 3]
    loss a = mean(x)
    metric a = mean(2 * x)
    output x
