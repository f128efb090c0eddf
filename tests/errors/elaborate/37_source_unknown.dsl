model M:
    input x[3]
    param w[3] ~ zeros()
    loss sum[i](x[i] * w[i])

train:
    data digit()
    steps 10
    optimizer adam(lr=1e-3)
