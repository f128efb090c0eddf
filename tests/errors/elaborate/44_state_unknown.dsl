model M:
    input x[3]
    count <- 1
    output x
