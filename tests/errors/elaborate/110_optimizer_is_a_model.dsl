model adamw:
    input x[2, 3]
    loss mean(linear(x, 4))

train:
    optimizer adamw(lr=0.1)
