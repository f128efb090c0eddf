# Each construct of the language once.
from "blocks.dsl" import block, tower as image_tower
let turns = 3; let scale = 1.5
backbone = import "resnet.onnx"
tuned = import("resnet.onnx", train="*.weight")
layer batchnorm(x[n, c, ...], momentum=0.1, eps=1e-5, affine=true):
    param  gain[c] ~ ones() if affine
    param  bias[c] ~ zeros() if affine
    param  scale, slope: float32 ~ (ones() if affine else zeros())
    param  decay[i < c, j < 4] = log(j + 1)
    state  mean[c] ~ zeros();  state var[c] ~ ones();  state count: int32 = 0
    if training:
        mu[c]  = mean[n, ...](x[n, c, ...])
        sq[c]  = mean[n, ...]((x[n, c, ...] - mu[c]) ** 2)
        mean <- (1 - momentum) * mean + momentum * mu
        var[c] <- (1 - momentum) * var[c] + momentum * sq[c]
    elif affine and not training:
        mu = mean; sq = var
    else:
        mu = mean; sq = var
    with precision(float32), frozen:
        y[n, c, ...] = (x[n, c, ...] - mu[c]) * rsqrt(sq[c] + eps)
    return y[n, c, ...] = (y[n, c, ...] * gain[c] + bias[c]) if affine else y[n, c, ...], mu
layer constant(): return 3
layer port(x[], y[4, 2 * heads, k]: bool, heads: int32 = 2,
           last=(1, 2, 3),): return x
layer recurrent(x[b, t, i], hidden):
    scan t < 10 carry h[b, u]: float32 = 0, c = start:
        h[b, u] = x[b, size(t) - 1 - t, u] + c[b, u] * h[b, u]
        emit y[b, t, u] = h[b, u], z[t] = 3
    scan k:
        m = 3
    return y, h
model Everything:
    dims batch = 8, time<=2 * 16, 	side = 32
    let w = [16, 32, 64], pair = (3, 3), one = (4,), none = [], third = 10 // 3, f = gelu
    input image[batch, 3, side, side], mask[batch, 1]: bool, α
    net = use batchnorm(momentum=0.5)
    x, second = backbone(image).features
    repeat turns as i:
        x = block(x, w[i], act=f) * scale
        if i % 2 == 0: x = dropout(x, 0.1)
    repeat 3: x = -x ** 2 ** -3
    total[b, n] = cumsum[n](x[b, n]) + where(0 <= n < 4 and not mask[b, 0] or n != 2, x[b, n - 1, outside=-inf], -inf) / 2
    head[b, k < 10] = total[b, 2*k + 1] - total[b, 0] if third > 2 else 0.0
    loss = mean(first)                # an ordinary name: `loss` opens a statement only where no = follows
    state[b, n] = x[b, n]
    input.output <- 2
    over = input + output(state, input=3) + scan
    less = where(j <-1, a, b)
    net.params <- 0.99 * net.params
    tall = (1 +
            2  # a line goes on inside brackets
            )
    text = "a \"word\"\n" == "\\"
    deep = net.block.0.w + net.1.2
    output head, probs[b, k] = softmax[k](head[b, k])
    loss  main = mean((first - second) ** 2)
    loss  -0.1 * loss
    metric spread = max(first) - min(first)
    wrap "block.*.w" with lora(rank=8)
    wrap net.block.0, net.*.w with f()
train warm:
    data images("./data", batch=8)
    let peak = .5; steps 1_000
    minimize main over block, head.bias with adamw(lr=1e-3)
    minimize main + other over "*.gain" with sgd(lr=0.1, momentum=0.9)
    memory 1.5 GiB
    stop 30 min, 2e6 steps
    seed -1
train: steps 3; optimizer sgd(lr=1)
generate:
    over time from logits beam(width=4)
    length 200
    stop "\n"
