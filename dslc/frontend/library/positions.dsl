# Positions: learned, sinusoidal, rotary, and the linear biases of ALiBi.

layer positions(time, width):
    param table[time, width] ~ normal(std=0.02)
    return table

# Vaswani et al. 2017
layer sinusoidal_positions(time, width, base=10000.0):
    return p[t < time, d < width] = where(d % 2 == 0, sin(t / base ** (d / width)), cos(t / base ** ((d - 1) / width)))

# Su et al. 2021, on the two halves of the channels
layer rotary(x[b, h, t, c], base=10000.0):
    let half = c // 2
    angle[t, c] = t / base ** (2 * (c % half) / size(c))
    turned[b, h, t, c] = where(c < half, -x[b, h, t, c + half], x[b, h, t, c - half])
    return y[b, h, t, c] = x[b, h, t, c] * cos(angle[t, c]) + turned[b, h, t, c] * sin(angle[t, c])

# Press et al. 2022: each head has its own slope
layer alibi(s[b, h, i, j]):
    slope[h] = 2 ** (-8 * (h + 1) / size(h))
    return y[b, h, i, j] = s[b, h, i, j] - slope[h] * abs(i - j)
