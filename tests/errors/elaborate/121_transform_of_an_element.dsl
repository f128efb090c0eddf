model M:
    input x[3, 4]
    y[n, k] = fft(x[n, k])
    output y
