layer f(x: int32[b]):
    return x
