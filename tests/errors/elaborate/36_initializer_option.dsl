model M:
    input x[3]
    param w[3] ~ normal(sdt=0.1)
    loss sum[i](x[i] * w[i])
