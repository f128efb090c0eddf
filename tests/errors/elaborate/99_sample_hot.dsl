model M:
    dims n=2, d=3
    input x[n, d]
    y = linear(x, d)
    output y
    loss mean(y)

generate:
    over d from y sample(temperature="hot")
