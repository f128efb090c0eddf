# A mixture of experts: a router scores 8 experts for each token, the best 2 compute it, weighted by a softmax over their scores.
model MoE:
    dims    tokens=256
    let     width=256, hidden=512, experts=8, chosen=2
    input   x[tokens, width]

    param   router[width, experts], up[experts, width, hidden], down[experts, hidden, width] ~ normal(std=0.05)
    score[n, e] = sum[d](x[n, d] * router[d, e])
    order[n, e] = argsort[e](-score[n, e])
    pick[n, r < chosen] = order[n, r]
    best[n, r < chosen] = score[n, order[n, r]]
    gate[n, r] = softmax[r](best[n, r])
    h[n, r, k] = silu(sum[d](x[n, d] * up[pick[n, r], d, k]))
    y[n, r, d] = sum[k](h[n, r, k] * down[pick[n, r], k, d])
    logits[n, d] = sum[r](gate[n, r] * y[n, r, d])

    output  logits
