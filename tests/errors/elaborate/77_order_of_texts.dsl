model M:
    input x[2, 3]
    if "a" < 3:
        x = x * 2
    output y = x
