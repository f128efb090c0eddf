model M:
    dims n=4
    input x[n]
    x + 1 <- 3
