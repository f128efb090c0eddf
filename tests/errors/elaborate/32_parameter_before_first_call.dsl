model M:
    dims n=2, d=3
    input x[n, d]
    net = use linear(4)
    w = net.w
    y = net(x)
    output y, w
