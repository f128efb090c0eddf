layer f(x[n]):
    return g(x)

layer g(x[n]):
    return f(x)

model M:
    input x[3]
    output y = f(x)
