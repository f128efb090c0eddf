model M:
    input x[3]
    state last[3] ~ zeros()
    last <- [x, 1]
    output x
