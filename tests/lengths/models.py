"""Models with bounded dimensions, and the same models at fixed ones."""

import numpy as np

import dslc

BOUND = 5

# Each has an output `y`, and a loss in which all of it counts. `time` is written where a dimension stands in a size.
BODIES = {
    "mean": """
    input x[batch, time, 3]
    param w[3, 4] ~ normal()
    h[b, t, k] = tanh(sum[d](x[b, t, d] * w[d, k]))
    output y[b, k] = mean[t](h[b, t, k]) + max[t](h[b, t, k])
    loss mean(y ** 2)
""",
    "attention": """
    input x[batch, time, 8]
    output y = self_attention(x, heads=2)
    loss mean(y ** 2)
""",
    "causal": """
    input x[batch, time, 8]
    output y = self_attention(rmsnorm(x), heads=2, causal=true, rotate=true)
    loss mean(y ** 2)
""",
    "cross": """
    input x[batch, 5, 8], memory[batch, time, 8]
    output y = cross_attention(x, memory, heads=2)
    loss mean(y ** 2)
""",
    "lstm": """
    input x[batch, time, 3]
    h = lstm(x, 4)
    output y[b, k] = h[b, time - 1, k]
    loss mean(h ** 2)
""",
    "gru": """
    input x[batch, time, 3]
    output y = gru(x, 4)
    loss mean(y ** 2)
""",
    "last carry": """
    input x[batch, time, 3]
    param w[3, 3] ~ normal()
    scan t < time carry h[batch, 3] = 1:
        h[b, k] = tanh(sum[d](h[b, d] * w[d, k]) + x[b, time - 1 - t, k])
    output y = h
    loss mean(y ** 2)
""",
    "reversed": """
    input x[batch, time, 3]
    param w[3] ~ normal()
    z[b, t, d] = x[b, t, d] * w[d]
    output y[b, t < time, d] = z[b, time - 1 - t, d] + 2 * z[b, t + 1, d] + 3 * z[b, t - 2, d]
    loss mean(y ** 2)
""",
    "convolution": """
    input x[batch, 4, time]
    h = conv1d(x, 4, kernel=3, pad=1, groups=2, bias=true)
    output y = maxpool1d(gelu(h), kernel=3, stride=1, pad=1)
    loss mean(y ** 2)
""",
    "frames": """
    input x[batch, time, 3, 6]
    param w[4, 3, 3] ~ normal()
    z[b, t, o, p < 6] = sum[c, u](x[b, t, c, p + u - 1] * w[o, c, u])
    output y[b, t, o, p] = tanh(z[b, t, o, p])
    loss mean(y ** 2)
""",
    "window": """
    input x[batch, time]
    param w[4] ~ normal()
    output y[b, t < time] = sum[u < 4](x[b, t + u - 2] * w[u]) + max[u < 3](x[b, t + u, outside=-inf]) * w[0]
    loss mean(y ** 2)
""",
    "quotient": """
    input x[batch, time]
    param w[batch] ~ normal()
    z[b, t] = x[b, t] * w[b]
    n[b, t < time] = sum[u < 3](z[b, t + u] ** 2)
    output y[b, t] = z[b, t] / n[b, t] + log(n[b, t]) + sqrt(n[b, t])
    loss mean(y)
""",
    "sums": """
    input x[batch, time, 3]
    param w[3] ~ normal()
    z[b, t, d] = x[b, t, d] * w[d]
    back[b, t < time, d] = z[b, time - 1 - t, d]
    c[b, t, d] = cumsum[t](back[b, t, d])
    output y[b, t < time, d] = cumsum[t](z[b, t, d]) * c[b, time - 1 - t, d]
    loss mean(y ** 2)
""",
    "products": """
    input x[batch, time]
    param w[batch] ~ normal()
    z[b, t] = x[b, t] * w[b]
    output y[b, t] = cumprod[t](z[b, t]) + prod[s](z[b, s])
    loss mean(y ** 2)
""",
    "statistics": """
    input x[batch, 4, time]
    output y = batchnorm(x)
    loss mean((y - 1) ** 2)
""",
    "cross entropy": """
    input tokens[batch, time]: int32, targets[batch, time]: int32
    h = rmsnorm(embedding(tokens, vocab=11, width=8))
    output y = linear(h, 11)
    loss cross_entropy(y, targets, smoothing=0.1)
""",
    "positions": """
    input tokens[batch, time]: int32
    e = embedding(tokens, vocab=11, width=8)
    p = positions(time, 8)
    h[b, t, d] = e[b, t, d] + p[t, d]
    output y[b, d] = logsumexp[t](h[b, t, d]) / sqrt(size(t)) + log(size(t))
    loss mean(y ** 2)
""",
    "order": """
    input x[batch, time]
    param w[batch] ~ normal()
    z[b, t] = x[b, t] * w[b]
    first[b] = argmax[t](z[b, t])
    s[b, t] = sort[t](z[b, t])
    output y[b, t < time] = s[b, t] * (t + 1) + s[b, time - 1 - t] + z[b, first[b]]
    loss mean(y ** 2)
""",
    "scatter": """
    input to[batch, time]: int32, x[batch, time]
    param w[batch] ~ normal()
    output y[b, n < 5] = sum[t](where(to[b, t] == n, x[b, t] * w[b], 0))
    loss mean(y ** 2)
""",
    "pointers": """
    input at[batch, time]: int32, x[batch, time]
    param w[batch] ~ normal()
    z[b, t] = x[b, t] * w[b]
    i[b, t] = at[b, t] + 1
    output y[b, t] = z[b, i[b, t]]
    loss mean(y ** 2)
""",
    "joined": """
    input x[batch, time, 3]
    param start[1, 3], end[2, 3] ~ normal()
    a[b < batch, s < 1, d] = start[s, d]
    c[b < batch, s < 2, d] = end[s, d]
    z = concat(a, x, c, x, axis=1)
    output y[b, t, d] = cumsum[t](z[b, t, d])
    loss mean(y ** 2)
""",
    "mixing": """
    input x[batch, time, 3]
    param w[time, time], v[time] ~ normal()
    output y[b, t, d] = sum[s](w[t, s] * x[b, s, d]) + v[t]
    loss mean(y ** 2)
""",
    "logs": """
    input x[batch, time]
    param w[batch] ~ normal()
    output y[b, t] = log((x[b, t] * w[b]) ** 2)
    loss mean(y)
""",
    "prefix": """
    input x[batch, time, 6]
    param w[6] ~ normal()
    z[b, t, d] = x[b, t, d // 2 * 2] * w[d]
    output y[b, i < 2, d] = z[b, i, d]
    loss mean(y ** 2)
""",
    "kept": """
    input x[batch, time]
    param w[time] ~ normal()
    state m[time] ~ ones()
    m[t] <- 0.5 * m[t] + mean[b](x[b, t])
    output y[b, t] = x[b, t] * m[t] * w[t]
    loss mean(y ** 2)
""",
    "slopes": """
    input x[batch, time, 3]
    param w[3, 3] ~ normal()
    h[b, t, k] = tanh(sum[d](x[b, t, d] * w[d, k]))
    p[b, t, k] = softmax[t](h[b, t, k])
    e = sum(p ** 3)
    output y = grad(e, x)
    loss mean(y ** 2)
""",
    "poles": """
    input x[time, 3]
    param w[time] ~ ones()
    g[t < time, d < 3] = (d + 1) / (time - t)
    output y[d, e < 3] = sum[t](g[t, d] * x[t, e] * w[t])
    loss mean(y ** 2)
""",
    "entropy": """
    input x[batch, time]
    param w[time] ~ ones()
    p[b, t] = softmax[t](x[b, t] * w[t])
    output y[b] = sum[t](p[b, t] * log(p[b, t]) + sqrt(w[t] * (time - t)))
    loss mean(y ** 2)
""",
    "distances": """
    input x[batch, time]
    param w[time] ~ ones()
    z[b, t] = x[b, t] * w[t]
    output y[b, t] = sum[s](sqrt((z[b, t] - z[b, s]) ** 2 + where(s == t, 1.0, 0.0)))
    loss mean(y ** 2)
""",
    "turns": """
    input x[batch, time]
    param w[time] ~ ones()
    z[b, t < time] = abs(x[b, time - 1 - t]) * w[t]
    scan t < time carry h[batch] = 1:
        h[b] = tanh(h[b] + log(z[b, t])) / (time - t)
    output y = h
    loss mean(y ** 2)
""",
    "two": """
    input x[batch, time, 3], m[batch, words, 3]
    param w[3, 3] ~ normal()
    k[b, s, e] = sum[d](m[b, s, d] * w[d, e])
    q[b, t, s] = sum[d](x[b, t, d] * k[b, s, d]) / size(s)
    a[b, t, s] = softmax[s](q[b, t, s])
    output y[b, t, d] = sum[s](a[b, t, s] * m[b, s, d]) + mean[s, i](q[b, i, s])
    loss mean(y ** 2)
""",
}
TRAIN = "\ntrain:\n    optimizer sgd(lr=0.5)\n"


def text(body: str, time: str = f"<={BOUND}", words: str = "<=5") -> str:
    """A model file; `time` and `words` are bounds or sizes."""
    dims = f"batch=2, time{time}" + (f", words{words}" if "words" in body else "")
    return f"model M:\n    dims {dims}{body}{TRAIN}"


def inputs(model: dslc.Model, seed: int = 0, **sizes: int) -> dict:
    """Inputs of a model for some lengths."""
    rng = np.random.default_rng(seed)
    out = {}
    for value, name in model.checked.builder.inputs.items():
        axes = model.checked.builder.input_axes[value]
        dtype = str(model.checked.builder.module.context and value.type)
        shape = [sizes.get(a, model.checked.dims[a] if a in model.checked.dims else int(a)) for a in axes]
        whole = "i32" in dtype
        high = min([5, *([sizes["time"]] if name == "at" else [])])
        out[name] = rng.integers(0, high, shape).astype(np.int32) if whole else rng.standard_normal(shape).astype(np.float32)
    return out


def part(array: np.ndarray, shape: tuple) -> np.ndarray:
    return array[tuple(slice(0, n) for n in shape)]


def fixed_like(model: dslc.Model, body: str, **sizes: int) -> dslc.Model:
    """The model at fixed lengths, with the same parameters, as far as they reach."""
    fixed = dslc.load(text(body, f"={sizes['time']}", f"={sizes.get('words', 5)}"))
    for path in fixed.params:
        fixed.params[path] = part(np.array(model.params[path]), fixed.params[path].shape)
    return fixed
