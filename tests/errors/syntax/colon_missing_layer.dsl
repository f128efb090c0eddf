layer f(x[b])
    return x
