model M:
    input x[2, 3]
    param seed[3] ~ ones()
    z[a, b] = x[a, b] * seed[b] + uniform()
    output z
