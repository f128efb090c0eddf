model M:
    input x[3]
    scan k < 3 carry count: int33 = 0:
        count = count + 1
    output x, count
