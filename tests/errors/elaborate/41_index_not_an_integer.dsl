model M:
    input x[3], at[2]
    output y[b] = x[at[b]]
