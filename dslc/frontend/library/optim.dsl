# Optimizers: a layer of a parameter w and its gradient g that gives the new w; its states are kept with the parameter. `step` counts from 0.

# v = momentum v + g, w = w - lr v, as in torch
layer sgd(w[...], g[...], lr, momentum=0.0, nesterov=false, weight_decay=0.0):
    d = g + weight_decay * w if weight_decay != 0 else g
    if momentum == 0:
        return w - lr * d
    else:
        state v[...] ~ zeros()
        v <- momentum * v + d
        return w - lr * (d + momentum * v) if nesterov else w - lr * v

# Kingma and Ba 2015; weight_decay is added to the gradient
layer adam(w[...], g[...], lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    state m[...], v[...] ~ zeros()
    d = g + weight_decay * w if weight_decay != 0 else g
    m <- betas[0] * m + (1 - betas[0]) * d
    v <- betas[1] * v + (1 - betas[1]) * d * d
    c1 = 1 - betas[0] ** (step + 1)
    c2 = 1 - betas[1] ** (step + 1)
    return w - lr * (m / c1) / (sqrt(v / c2) + eps)

# Loshchilov and Hutter 2019; weight_decay shrinks w itself
layer adamw(w[...], g[...], lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    state m[...], v[...] ~ zeros()
    m <- betas[0] * m + (1 - betas[0]) * g
    v <- betas[1] * v + (1 - betas[1]) * g * g
    c1 = 1 - betas[0] ** (step + 1)
    c2 = 1 - betas[1] ** (step + 1)
    return w * (1 - lr * weight_decay) - lr * (m / c1) / (sqrt(v / c2) + eps)

layer rmsprop(w[...], g[...], lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    state v[...] ~ zeros()
    d = g + weight_decay * w if weight_decay != 0 else g
    v <- alpha * v + (1 - alpha) * d * d
    if momentum == 0:
        return w - lr * d / (sqrt(v) + eps)
    else:
        state b[...] ~ zeros()
        b <- momentum * b + d / (sqrt(v) + eps)
        return w - lr * b

# Duchi et al. 2011
layer adagrad(w[...], g[...], lr, eps=1e-10, weight_decay=0.0):
    state s[...] ~ zeros()
    d = g + weight_decay * w if weight_decay != 0 else g
    s <- s + d * d
    return w - lr * d / (sqrt(s) + eps)

# Chen et al. 2023: the sign of an interpolated momentum
layer lion(w[...], g[...], lr, betas=(0.9, 0.99), weight_decay=0.0):
    state m[...] ~ zeros()
    c = betas[0] * m + (1 - betas[0]) * g
    m <- betas[1] * m + (1 - betas[1]) * g
    return w - lr * (sign(c) + weight_decay * w)

# Shazeer and Stern 2018, as in torch: the mean squares of a matrix's rows and columns stand for those of its elements
layer adafactor(w[...], g[...], lr, decay=-0.8, eps=(1.1920929e-7, 1e-3), limit=1.0, weight_decay=0.0):
    share = (step + 1) ** decay
    if rank(w) < 2:
        state v[...] ~ zeros()
        v <- (1 - share) * v + share * g * g
        square = v
    else:
        square = factored_square(g, share, eps[0])
    u = g * rsqrt(max(square, eps[0] ** 2))
    rate = max(sqrt(mean(w * w)), eps[1]) * min(lr, rsqrt(step + 1))
    return w * (1 - lr * weight_decay) - rate / max(sqrt(mean(u * u)) / limit, 1) * u

layer factored_square(g[..., n, m], share[], eps):
    state rows[..., n], columns[..., m] ~ zeros()
    rows[..., n] <- (1 - share) * rows[..., n] + share * mean[m](g[..., n, m] ** 2)
    columns[..., m] <- (1 - share) * columns[..., m] + share * mean[n](g[..., n, m] ** 2)
    all[...] = max(mean[n](rows[..., n]), eps)
    return square[..., n, m] = rows[..., n] * columns[..., m] / all[...]
