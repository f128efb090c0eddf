# Two losses, two minimizations in a step, draws in the model.
layer generator(z[b, k], out):
    return tanh(linear(relu(linear(z, 6)), out))
layer critic(x[b, p]):
    h = linear(leaky_relu(linear(x, 6), 0.2), 1)
    return y[b] = h[b, 0]
model GAN:
    dims batch=5
    let latent=3, pixels=4
    input real[batch, pixels]
    z[b < batch, k < latent] = normal()
    gen = use generator(pixels);  disc = use critic()
    fake = gen(z)
    output fake
    loss d = mean(softplus(-disc(real))) + mean(softplus(disc(stop_gradient(fake))))
    loss g = mean(softplus(-disc(fake)))
train:
    minimize d over disc with adam(lr=2e-4, betas=(0.5, 0.999))
    minimize g over gen with adam(lr=2e-4, betas=(0.5, 0.999))
    steps 10
