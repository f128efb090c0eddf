layer f(x[b], x[c]):
    return x
