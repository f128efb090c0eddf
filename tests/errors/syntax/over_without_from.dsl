generate:
    over time sample()
