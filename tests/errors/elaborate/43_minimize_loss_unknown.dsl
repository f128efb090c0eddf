model M:
    input x[3]
    param w[3] ~ zeros()
    loss fit = sum[i](x[i] * w[i])

train:
    steps 10
    minimize fti over all with adam(lr=1e-3)
