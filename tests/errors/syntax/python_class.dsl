class M:
    x = 3
