model M:
    dims n=2, d=3
    input x[n, d]
    y = linear(x, d)
    output y
    loss mean(y)

train:
    steps 3
    optimizer sgd(lr=0.1)
    clip norm(true)
