layer f(x[b], b=3):
    return x
