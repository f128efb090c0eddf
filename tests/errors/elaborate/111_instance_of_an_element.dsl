model M:
    input x[2, 3]
    net = use linear(4)
    y[n, d] = net(x[n])[d]
    output y
