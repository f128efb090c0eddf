layer mine(x[n, d], bias=false):
    param w[d] ~ ones()
    param b[d] ~ zeros() if bias
    return y[n, d] = x[n, d] * w[d]

model M:
    dims n=2, d=3
    input x[n, d]
    net = use mine()
    y = net(x)
    output z = net.b
    output y
