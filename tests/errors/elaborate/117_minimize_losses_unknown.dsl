model M:
    input x[2, 3]
    y = linear(x, 4)
    loss fit = mean(y)
    loss small = mean(y ** 2)

train:
    minimize all over linear with sgd(lr=0.1)
