layer descent(w[a, b], g[a, b], lr):
    return w - lr * g

model M:
    input x[2, 3]
    net = use linear(4)
    loss mean(net(x))

train:
    optimizer descent(lr=0.1)
