model M:
    input x[2, 3]
    scan t < 3 carry h[2] = 0, h[2] = 1:
        h[b] = h[b] + x[b, t]
    output h
