layer descent(w[...], g[...], lr):
    return mean(w) - lr * mean(g)

model M:
    input x[2, 3]
    net = use linear(4)
    loss mean(net(x))

train:
    optimizer descent(lr=0.1)
