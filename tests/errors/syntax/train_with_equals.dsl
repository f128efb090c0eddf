train:
    steps = 3
