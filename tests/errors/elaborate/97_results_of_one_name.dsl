layer f(x[b]):
    return y = x, y = 2 * x
model M:
    input x[2]
    a, b = f(x)
    output a, b
