layer two(x[n]):
    first = x
    second = x + 1
    return first, second

model M:
    input x[3]
    pair = two(x).frist
    output pair
