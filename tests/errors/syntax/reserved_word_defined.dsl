model M:
    dims n=4
    input x[n]
    use = 3
