# Experts: top-k with capacity, top-1, experts that choose.
layer moe(x[t, d], experts=4, k=2, hidden=32, capacity=1.25, alpha=0.01):
    let cap = int(capacity * k * t / experts) + 1
    param wg[d, experts] ~ normal(std=0.02)
    param w1[experts, d, hidden], w2[experts, hidden, d] ~ xavier_uniform()
    g[t, e] = sum[d](x[t, d] * wg[d, e])
    order[t, e] = argsort[e](-g[t, e])
    top[t, r < k] = order[t, r]                             # int: the chosen experts
    gate[t, r] = softmax[r](g[t, top[t, r]])                # gradient through the kept scores only
    hit[t, e < experts] = any[r](top[t, r] == e)
    place[t, e] = cumsum[t](int32(hit[t, e])) - 1           # my seat at expert e
    inside[e, s < cap, d] = sum[t](where(hit[t, e] and place[t, e] == s, x[t, d], 0))      # dispatch
    h[e, s, f] = silu(sum[d](inside[e, s, d] * w1[e, d, f]))
    out[e, s, d] = sum[f](h[e, s, f] * w2[e, f, d])
    y[t, d] = sum[r](gate[t, r] * out[top[t, r], place[t, top[t, r]], d])                 # combine; a full expert gives 0
    f[e] = stop_gradient(mean[t](float32(hit[t, e])))
    p[e] = mean[t](softmax[e](g[t, e]))
    loss balance = alpha * experts * sum[e](f[e] * p[e])
    return y

layer switch(x[t, d], experts=4, hidden=32):
    param wg[d, experts] ~ normal(std=0.02);  param w1[experts, d, hidden], w2[experts, hidden, d] ~ xavier_uniform()
    p[t, e] = softmax[e](sum[d](x[t, d] * wg[d, e]))
    best[t] = argmax[e](p[t, e])
    h[t, f] = relu(sum[d](x[t, d] * w1[best[t], d, f]))
    return y[t, d] = p[t, best[t]] * sum[f](h[t, f] * w2[best[t], f, d])

layer expert_choice(x[t, d], experts=4, hidden=32, each=2):
    param wg[d, experts] ~ normal(std=0.02);  param w1[experts, d, hidden], w2[experts, hidden, d] ~ xavier_uniform()
    p[t, e] = softmax[e](sum[d](x[t, d] * wg[d, e]))
    order[e, t] = argsort[t](-p[t, e])
    pick[e, s < each] = order[e, s]
    h[e, s, f] = relu(sum[d](x[pick[e, s], d] * w1[e, d, f]))
    o[e, s, d] = p[pick[e, s], e] * sum[f](h[e, s, f] * w2[e, f, d])
    return y[t, d] = sum[e, s](where(pick[e, s] == t, o[e, s, d], 0))

model M:
    input x[12, 8]
    output y = moe(x), one = switch(x), chosen = expert_choice(x)
    loss mean(y ** 2)

train:
    steps 3
    optimizer adam(lr=1e-3)
