layer f(x[n]):
    y = x

model M:
    input x[3]
    output y = f(x)
