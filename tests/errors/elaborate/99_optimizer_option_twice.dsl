model M:
    input x[2]
    param w[2] ~ ones()
    output y[a] = x[a] * w[a]
    loss mean(y)
train:
    optimizer sgd(0.1, lr=5)
