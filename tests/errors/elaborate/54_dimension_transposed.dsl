model M:
    dims d=3, k=4
    input x[2, d]
    param w[d, k] ~ zeros()
    output y[b, k] = sum[d](x[b, d] * w[k, d])
