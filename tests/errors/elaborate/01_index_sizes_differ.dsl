model M:
    dims b=2, d=3
    input x[b, 3]
    param w[4, d] ~ zeros()
    let k = 3
    y[b, k] = sum[d](x[b, d] * w[d, k])
    output y
