model M:
    y = x²
