layer attention(x[n, d]):
    param w[d, k < d] ~ xavier_uniform()
    return y[n, k] = sum[d](x[n, d] * w[d, k])

layer block(x[n, d]):
    attention = use attention()
    return attention(x)

model M:
    dims n=2, d=3
    input x[n, d]
    net = use block()
    y = net(x)
    loss mean(y ** 2)

train:
    steps 10
    #
    minimize loss over "net.atention.*" with adam(lr=1e-3)
