a, b = 3
model M:
    input x[2]
    output y = x
