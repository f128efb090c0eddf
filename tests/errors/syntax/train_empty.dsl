train:
