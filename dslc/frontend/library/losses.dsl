# Losses: each gives one number, the mean over everything that is not summed.

# class indices; `smoothing` spreads that much of the target over all classes; `ignore` is an index that does not count (nan: every one counts)
layer cross_entropy(logits[..., v], targets[...]: int32, smoothing=0.0, ignore=nan):
    let all = ignore != ignore
    at[...] = targets[...] if all else where(targets[...] == ignore, 0, targets[...])
    total[...] = logsumexp[v](logits[..., v])
    hit[...] = logits[..., targets[...]] if all else logits[..., at[...]]
    nll[...] = total[...] - hit[...] if smoothing == 0 else total[...] - (1 - smoothing) * hit[...] - smoothing * mean[v](logits[..., v])
    if all:
        return mean(nll)
    else:
        counted[...] = float32(targets[...] != ignore)
        return sum(nll * counted) / max(sum(counted), 1)

# targets are distributions over the classes
layer soft_cross_entropy(logits[..., v], targets[..., v]):
    nll[...] = -sum[v](targets[..., v] * log_softmax[v](logits[..., v]))
    return mean(nll)

# from logits, without overflow: log(1 + exp(z)) - z y
layer binary_cross_entropy(logits[...], targets[...]):
    return mean(softplus(logits) - logits * targets)

layer mse(a[...], b[...]):
    return mean((a - b) ** 2)

layer mae(a[...], b[...]):
    return mean(abs(a - b))

layer huber(a[...], b[...], delta=1.0):
    e = abs(a - b)
    return mean(where(e <= delta, 0.5 * e ** 2, delta * (e - 0.5 * delta)))

# Lin et al. 2017: easy examples count less
layer focal(logits[..., v], targets[...]: int32, gamma=2.0):
    nll[...] = logsumexp[v](logits[..., v]) - logits[..., targets[...]]
    return mean((1 - exp(-nll)) ** gamma * nll)

# the divergence of q from p, both distributions over the last axis
layer kl(p[..., v], q[..., v]):
    d[...] = sum[v](where(p[..., v] > 0, p[..., v] * (log(where(p[..., v] > 0, p[..., v], 1)) - log(q[..., v])), 0))
    return mean(d)

layer unit_length(x[n, d], eps=1e-12):
    return y[n, d] = x[n, d] * rsqrt(max(sum[e](x[n, e] ** 2), eps))

# van den Oord et al. 2018: row n of a and row n of b belong together, all other rows of b are its negatives
layer info_nce(a[n, d], b[n, d], temperature=0.07):
    u = unit_length(a)
    v = unit_length(b)
    s[i < n, j < n] = sum[d](u[i, d] * v[j, d]) / temperature
    nll[i < n] = logsumexp[j](s[i, j]) - s[i, i]
    return mean(nll)

layer triplet(anchor[n, d], positive[n, d], negative[n, d], margin=1.0, eps=1e-6):
    near[n] = sqrt(sum[d]((anchor[n, d] - positive[n, d] + eps) ** 2))
    far[n] = sqrt(sum[d]((anchor[n, d] - negative[n, d] + eps) ** 2))
    return mean(relu(near - far + margin))
