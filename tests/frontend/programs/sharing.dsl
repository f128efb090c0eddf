# Tied weights, a triplet, a frozen teacher that follows by an exponential average, distillation.
layer encoder(x[n, d], out):
    param w[d, out] ~ xavier_uniform();  param b[out] ~ zeros()
    return y[n, o] = sum[d](x[n, d] * w[d, o]) + b[o]
model Shared:
    dims batch=4
    let d=6, code=3, tau=2.0
    input a[batch, d], p[batch, d], n[batch, d]
    enc = use encoder(code);  teacher = use encoder(code)
    za = enc(a);  zp = enc(p);  zn = enc(n)
    back[n, d] = sum[o](za[n, o] * enc.w[d, o])                        # tied decoder
    with frozen:
        soft[n, o] = softmax[o](teacher(a)[n, o] / tau)
    teacher.params <- 0.99 * teacher.params + 0.01 * enc.params
    kd[n] = sum[o](soft[n, o] * (log(soft[n, o]) - log_softmax[o](za[n, o] / tau)))
    triplet[n] = max(0, sum[o]((za[n, o] - zp[n, o]) ** 2) - sum[o]((za[n, o] - zn[n, o]) ** 2) + 0.2)
    output za, back
    loss mean((back - a) ** 2) + mean(triplet) + tau ** 2 * mean(kd)

train:
    steps 3
    optimizer adam(lr=1e-3)
