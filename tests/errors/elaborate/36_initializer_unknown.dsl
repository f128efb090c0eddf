model M:
    input x[3]
    param w[3] ~ xavier_unifrom()
    loss sum[i](x[i] * w[i])
