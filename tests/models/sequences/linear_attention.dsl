# Kernel attention: by running sums, by a masked sum, by a scan (Katharopoulos et al. 2020).
layer linear_attention(x[b, t, d], form="running"):
    param  w[3, d, d] ~ xavier_uniform()
    z[n, b, t, e] = sum[d](x[b, t, d] * w[n, d, e])
    q[b, t, m] = elu(z)[0, b, t, m] + 1
    k[b, t, m] = elu(z)[1, b, t, m] + 1
    if form == "running":
        s[b, t, m, c] = cumsum[t](k[b, t, m] * z[2, b, t, c])
        n[b, t, m] = cumsum[t](k[b, t, m])
        return y[b, t, c] = sum[m](q[b, t, m] * s[b, t, m, c]) / sum[m](q[b, t, m] * n[b, t, m])
    elif form == "masked":
        a[b, i, j] = where(j <= i, sum[m](q[b, i, m] * k[b, j, m]), 0)
        return y[b, i, c] = sum[j](a[b, i, j] * z[2, b, j, c]) / sum[j](a[b, i, j])
    else:
        scan t carry s[b, d, d] = 0, n[b, d] = 0:
            s[b, m, c] = s[b, m, c] + k[b, t, m] * z[2, b, t, c]
            n[b, m] = n[b, m] + k[b, t, m]
            emit y[b, t, c] = sum[m](q[b, t, m] * s[b, m, c]) / sum[m](q[b, t, m] * n[b, m])
        return y

model LinearAttention:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + linear_attention(rmsnorm(x))
    x = x + linear_attention(rmsnorm(x), form="masked")
    x = x + linear_attention(rmsnorm(x), form="scan")
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
