modle M:
    y = 3
