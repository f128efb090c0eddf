model M:
    input x[3]
    param w[3] ~ zeros()
    loss sum[i](x[i] * w[i])

train:
    steps 10
    optimizer adam(rate=1e-3)
