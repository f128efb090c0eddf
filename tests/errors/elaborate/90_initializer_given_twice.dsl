model M:
    input x[2]
    param w[2] ~ normal(0.1, std=5)
    output y[a] = x[a] * w[a]
