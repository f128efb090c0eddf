model M:
model N:
    y = 3
