train:
    loss x
