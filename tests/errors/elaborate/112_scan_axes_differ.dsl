model M:
    input x[3, 4], y[5, 4]
    scan k carry s[4] = 0:
        s[d] = s[d] + x[k, d] * y[k, d]
    output s
