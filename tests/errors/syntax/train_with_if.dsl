train:
    if a: steps 3
