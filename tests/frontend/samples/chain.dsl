# The results that have no name in chain.yaml, named.
model Digits:
    dims batch=64
    input image[batch, 784]
    input label[batch]: int32
    _ = linear(image, out=128)
    _ = relu(_)
    hidden = linear(_, 64, bias=false)
    _ = hidden
    repeat 2 as i:
        _ = linear(_, out=32 * (i + 1))
        if i == 0:
            _ = gelu(_)
        elif i == 1:
            inner = relu(_)
            _ = inner
        else:
            y = 3 * _
            _ = dropout(y, p=0.1)
    with frozen, precision(float32):
        _ = layernorm(_)
    scan t < 8 carry h[batch, 64] = 0, c = start:
        h[b, u] = tanh(h[b, u] + c[b, u])
        emit z[b, t, u] = h[b, u]
    state count: int32 = 0
    count <- count + 1
    a, b = split(z, 2)
    b = b
    logits = linear(b, out=10)
    output logits, code = hidden
    loss nll = cross_entropy(logits, label)
    loss small = 1e-4 * mean(hidden ** 2)
    metric accuracy = mean(argmax(logits, axis=-1) == label)
train warm:
    steps 10
    optimizer sgd(lr=0.1)
train:
    let peak = 1e-3
    data table("x.csv", image=[0, 784], label=784)
    minimize nll + small over hidden, "*.bias" with adamw(lr=peak)
    stop 30 min
generate:
    over time from net.logits greedy()
