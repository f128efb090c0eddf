model M:
    input x[3, 2], w[2]
    y[n] = sum[d](x[n, d] * w[d] / 0)
    output y
