model M:
    input x[2, 3]
    f = use linear(3)
    y = f(x)
    state old = f.params
    scan t < 3 carry h[2] = 0:
        h[b] = h[b] + x[b, t]
        old <- f.params * 2
    output y
