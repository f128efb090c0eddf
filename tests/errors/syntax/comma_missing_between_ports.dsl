layer f(x[b] y[c]):
    return x
