model Inner:
    input x[2, 3]
    scan t < 3 carry h[2] = 0:
        h[b] = h[b] + x[b, t]
        output h
model M:
    input x[2, 3]
    y = Inner(x)
    output z = y.h
