layer f(x[b, t]):
    scan t carry h[b] = 0:
        h[b] = h[b] + x[b, t]
        return h
model M:
    input x[2, 3]
    y = f(x)
    output y
