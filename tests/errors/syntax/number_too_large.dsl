model M:
    y = 1e999
