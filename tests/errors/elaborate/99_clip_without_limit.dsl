model M:
    input x[2]
    output y = clip(x, hi=1)
