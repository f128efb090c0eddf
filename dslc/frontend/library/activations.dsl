# Activations beyond the built-in elementwise functions. Gradients at 0, where they differ from side to side, are those of torch.

layer identity(x[...]):
    return x

layer prelu(x[n, c, ...], start=0.25):
    param slope[c] ~ constant(start)
    return y[n, c, ...] = where(x[n, c, ...] > 0, x[n, c, ...], slope[c] * x[n, c, ...])

layer elu(x[...], a=1.0):
    return y[...] = where(x[...] > 0, x[...], a * expm1(where(x[...] > 0, 0, x[...])))

layer selu(x[...]):
    return y[...] = 1.0507009873554805 * where(x[...] > 0, x[...], 1.6732632423543772 * expm1(where(x[...] > 0, 0, x[...])))

layer celu(x[...], a=1.0):
    return y[...] = where(x[...] > 0, x[...], a * expm1(where(x[...] > 0, 0, x[...]) / a))

layer mish(x[...]):
    return y[...] = x[...] * tanh(softplus(x[...]))

layer gelu_tanh(x[...]):
    return y[...] = 0.5 * x[...] * (1 + tanh(0.7978845608028654 * (x[...] + 0.044715 * x[...] ** 3)))

layer quick_gelu(x[...]):
    return y[...] = x[...] * sigmoid(1.702 * x[...])

layer relu6(x[...]):
    return y[...] = where(x[...] >= 6, 6, relu(x[...]))

layer hard_tanh(x[...]):
    return y[...] = clip(x[...], -1, 1)

layer hard_sigmoid(x[...]):
    return y[...] = clip(x[...] / 6 + 0.5, 0, 1)

layer hard_swish(x[...]):
    return y[...] = x[...] * clip(x[...] / 6 + 0.5, 0, 1)

layer softsign(x[...]):
    return y[...] = x[...] / (1 + abs(x[...]))

layer squared_relu(x[...]):
    return y[...] = relu(x[...]) ** 2
