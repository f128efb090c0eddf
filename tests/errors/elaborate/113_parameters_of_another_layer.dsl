layer scaled(x[n, d]):
    param gain[d] ~ ones()
    return y[n, d] = gain[d] * x[n, d]

layer shifted(x[n, d]):
    param start[d] ~ zeros()
    return y[n, d] = x[n, d] + start[d]

model M:
    input x[2, 3]
    one = use scaled()
    other = use shifted()
    y = one(x)
    output z = other(x, params=one.params)
