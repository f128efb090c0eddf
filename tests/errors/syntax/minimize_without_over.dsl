train:
    minimize a with adam()
