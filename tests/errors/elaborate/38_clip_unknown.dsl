model M:
    input x[3]
    param w[3] ~ zeros()
    loss sum[i](x[i] * w[i])

train:
    steps 10
    clip nrom(1.0)
    optimizer adam(lr=1e-3)
