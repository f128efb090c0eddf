layer f(x[n]):
    return x
