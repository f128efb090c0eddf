model M:
    dims n=2, d=3
    input x[n, d]
    net = use linear(4, bias=false)
    y = net.b
    output y
