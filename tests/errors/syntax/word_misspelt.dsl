model M:
    inptu x[3]
