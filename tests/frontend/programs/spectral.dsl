# The power spectrogram and log-mel features of a waveform, and a long convolution of it, by Fourier transforms.
layer spectrogram(x[b, n], window=64, hop=16):
    let  frames = (n - window) // hop + 1, bins = window // 2 + 1
    cut[b, t < frames, i < window] = x[b, t * hop + i] * (0.5 - 0.5 * cos(2 * pi * i / window))
    re, im = fft(cut)
    return y[b, t, k < bins] = re[b, t, k] ** 2 + im[b, t, k] ** 2

layer log_mel(power[b, t, k], rate, mels):
    let  top = 2595 * log(1 + rate / 1400) / log(10)
    edge[m < mels + 2] = 700 * (10 ** (top * m / (mels + 1) / 2595) - 1)
    hertz[k] = k * rate / 2 / (size(k) - 1)
    bank[m < mels, k] = max(0, min((hertz[k] - edge[m]) / (edge[m + 1] - edge[m]), (edge[m + 2] - hertz[k]) / (edge[m + 2] - edge[m + 1])))
    return y[b, t, m] = log(max(sum[k](power[b, t, k] * bank[m, k]), 1e-6))

model Spectral:
    dims    batch=3, samples=200
    input   wave[batch, samples], label[batch]: int32
    param   echo[samples, 1] ~ normal(std=0.1)
    one[b, n, c < 1] = wave[b, n]
    wet = long_convolution(one, echo)
    direct[b, n < samples] = sum[k](wave[b, n - k] * echo[k, 0])
    heard[b, n] = wave[b, n] + wet[b, n, 0]
    features = log_mel(spectrogram(heard), 8000, 12)
    middle[b, m] = mean[t](features[b, t, m])
    logits = linear(middle, 5)
    output  features, wet, direct, logits
    loss    cross_entropy(logits, label)

train:
    optimizer  adam(lr=0.01)
    steps      3
