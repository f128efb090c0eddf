let widths = [2, 4]
model M:
    input x[3, 2], w[2]
    y[n] = sum[d](x[n, d] * w[d] / widths)
    output y
