# Noise at random times; a sampler that scans a denoiser, which is an option.
layer time_embedding(t[b]: int32, width):
    w[f < width // 2] = exp(-log(10000.0) * f / (width // 2))
    e[b, f < width] = where(f < width // 2, sin(t[b] * w[f % (width // 2)]), cos(t[b] * w[f % (width // 2)]))
    return linear(silu(linear(e, width)), width)

layer ddpm(x[n, c], net, beta[s]):
    a[s] = cumprod[s](1 - beta[s])
    scan k < s carry x = x:
        e = net(x)
        x[n, c] = (x[n, c] - beta[s - 1 - k] / sqrt(1 - a[s - 1 - k]) * e[n, c]) / sqrt(1 - beta[s - 1 - k])
    return x

model M:
    dims batch=4, width=6
    let rounds = 20
    input image[batch, width]
    beta[s < rounds] = 1e-4 + (0.02 - 1e-4) * s / (rounds - 1)
    alpha[s] = cumprod[s](1 - beta[s])
    t[b < batch] = randint(0, rounds)
    eps[b < batch, c < width] = normal()
    noisy[b, c] = sqrt(alpha[t[b]]) * image[b, c] + sqrt(1 - alpha[t[b]]) * eps[b, c]
    net = use linear(width)
    guess = net(noisy) + linear(time_embedding(t, 8), width)
    output guess, t, eps, noisy, sampled = ddpm(image, net, beta)
    loss mean((guess - eps) ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
