layer pick(table[n], at[b]: int32):
    return y[b] = table[at[b]]

model M:
    input x[3], at[2]
    output y = pick(x, at)
