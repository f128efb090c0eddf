model M:
    input x[3]
    state count: int32 = 0
    count <- count + 0.5
    output x, count
