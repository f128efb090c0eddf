# The multilayer perceptron of mlp.dsl in 8 bits: weights with a scale for each output channel, made once; inputs of each layer with a scale and a
# zero point of their own at every run, as ONNX's DynamicQuantizeLinear has them; sums in int32.
layer linear_int8(x[n, i], out):
    param  w[i, out] ~ xavier_uniform()
    param  b[out] ~ zeros()
    step[k] = max[i](abs(w[i, k])) / 127
    wq[i, k] = int8(round(w[i, k] / step[k]))
    low = min(min(x), 0.0)
    scale = (max(max(x), 0.0) - low) / 255
    zero = clip(round(-low / scale), 0.0, 255.0)
    xq = uint8(clip(round(x / scale) + zero, 0.0, 255.0))
    total[n, k] = sum[i]((int32(xq[n, i]) - int32(uint8(zero))) * int32(wq[i, k]))
    return y[n, k] = total[n, k] * (scale * step[k]) + b[k]

model MLP:
    dims    batch=128
    input   x[batch, 784]

    h = relu(linear_int8(x, 512))
    h = relu(linear_int8(h, 512))
    logits = linear_int8(h, 10)

    output  logits
