model M:
    input x[2, 3]
    scan t < 3 carry h[2] = 0:
        h[b] = h[b] + x[b, t]
        emit y[b, t] = h[b]
        emit y[b, t] = 2 * h[b]
    output y
