model M:
    dims n=4
    input x[n]
    param w[3] ~ zeros(), v[3] ~ ones()
