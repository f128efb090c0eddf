# Several inputs of several types; positions by an equation; bins; a masked mean; weights of examples.
layer sinusoid(time, width):
    return pe[t < time, d < width] = where(d % 2 == 0, sin(t / 10000 ** (d / width)), cos(t / 10000 ** ((d - 1) / width)))
model Ranker:
    dims batch=6, history=4
    let users=10, items=8, width=4
    input user[batch]: int32, item[batch]: int32, seen[batch, history]: int32, seen_length[batch]: int32
    input age[batch], price[batch], clicked[batch]: bool, cost[batch]
    items_ = use embedding(items, width)
    e = items_(seen) + sinusoid(history, width)
    h[b, d] = sum[t](where(t < seen_length[b], e[b, t, d], 0)) / max(seen_length[b], 1)
    bucket[b] = clip(int32(age[b] // 10), 0, 9)
    dense[b, k < 2] = where(k == 0, log(price[b] + 1), (age[b] - 40.0) / 12.0)
    x = concat(embedding(user, users, width), items_(item), h, embedding(bucket, 10, 4), dense, axis=-1)
    z = linear(relu(linear(relu(linear(x, 8)), 8)), 1)
    nll[b] = cost[b] * (softplus(z[b, 0]) - clicked[b] * z[b, 0])
    output score[b] = sigmoid(z[b, 0])
    loss mean(nll)

train:
    steps 3
    optimizer adam(lr=1e-3)
