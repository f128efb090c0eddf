model M:
    dims b=2
    input x[b, 3]
    scan t < 3 carry h[b] = 0:
        h[b, d] = x[b, d]
    output h
