model M:
    dims n=4
    input x[n]
    minimize a over b with adam()
