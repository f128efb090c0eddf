model M:
    dims d=30, heads=4
    input x[2, d]
    let size_of_head = d / heads
    y[b, h < heads, k < size_of_head] = x[b, h * size_of_head + k]
    output y
