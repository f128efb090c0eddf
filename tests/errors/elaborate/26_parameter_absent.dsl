layer mine(x[n, d], bias=false):
    param w[d] ~ ones()
    param b[d] ~ zeros() if bias
    y[n, d] = x[n, d] * w[d]
    z[d] =  b[d]
    return y

model M:
    dims n=2, d=3
    input x[n, d]
    output y = mine(x)
