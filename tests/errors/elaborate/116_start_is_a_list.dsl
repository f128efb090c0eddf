model M:
    input x[3]
    state last[2] = [1, 2]
    output x, last
