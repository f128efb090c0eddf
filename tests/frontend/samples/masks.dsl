# Every mask is a predicate of indices.
layer masked(s[b, h, i, j], document[b, j]: int32, length[b]: int32, pattern[p, q]: bool, kind="causal", window=4, dilation=2):
    if kind == "alibi":
        slope[h] = 2 ** (-8 * (h + 1) / size(h))
        s[b, h, i, j] = s[b, h, i, j] - slope[h] * abs(i - j)
        keep[b, i, j] = j <= i
    elif kind == "window": keep[b, i, j] = 0 <= i - j < window
    elif kind == "dilated":
        keep[b, i, j] = 0 <= i - j < window * dilation and (i - j) % dilation == 0
    elif kind == "documents":
        keep[b, i, j] = j <= i and document[b, i] == document[b, j]
    else:
        keep[b, i, j] = pattern[i // 8, j // 8]
    return t[b, h, i, j] = where(keep[b, i, j] and j < length[b], s[b, h, i, j], -inf)

layer experts(x[t, d], experts=4, k=2, hidden=32):
    let cap = int(1.25 * k * t / experts) + 1
    param wg[d, experts] ~ normal(std=0.02)
    param w1[experts, d, hidden], w2[experts, hidden, d] ~ xavier_uniform()
    g[t, e] = sum[d](x[t, d] * wg[d, e])
    order[t, e] = argsort[e](-g[t, e])
    top[t, r < k] = order[t, r]                             # the chosen experts
    gate[t, r] = softmax[r](g[t, top[t, r]])
    hit[t, e < experts] = any[r](top[t, r] == e)
    place[t, e] = cumsum[t](int32(hit[t, e])) - 1
    inside[e, s < cap, d] = sum[t](where(hit[t, e] and place[t, e] == s, x[t, d], 0))
    h[e, s, f] = silu(sum[d](inside[e, s, d] * w1[e, d, f]))
    out[e, s, d] = sum[f](h[e, s, f] * w2[e, f, d])
    y[t, d] = sum[r](gate[t, r] * out[top[t, r], place[t, top[t, r]], d])
    loss balance = 0.01 * experts * sum[e](mean[t](softmax[e](g[t, e])))
    return y
