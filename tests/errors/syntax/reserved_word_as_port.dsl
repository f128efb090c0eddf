layer f(if[b]):
    return x
