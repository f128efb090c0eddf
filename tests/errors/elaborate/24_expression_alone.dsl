model M:
    x + 1
