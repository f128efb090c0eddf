layer f(x[n]):
    param w[n] ~ zeros()
    param w[n] ~ ones()
    return x * w

model M:
    input x[4]
    output y = f(x)
