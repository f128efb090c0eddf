model M:
    input x[3]
    param w[3] ~ zeros()
    loss sum[i](x[i] * w[i])

train:
    steps 10
    optimizer adan(lr=1e-3)
