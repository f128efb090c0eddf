layer f(x[b]):
    return
