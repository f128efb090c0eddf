# Learning-rate schedules: expressions of `step`, which counts from 0, and of `steps`, the length of the run.
# Warm-up is peak * (step + 1) / warmup; behind it p goes from 0 to 1.

layer cosine(peak, warmup=0, low=0.0):
    p = (step - warmup) / max(steps - warmup, 1)
    return where(step < warmup, peak * (step + 1) / max(warmup, 1), low + (peak - low) * (1 + cos(pi * clip(p, 0, 1))) / 2)

layer linear_decay(peak, warmup=0, low=0.0):
    p = (step - warmup) / max(steps - warmup, 1)
    return where(step < warmup, peak * (step + 1) / max(warmup, 1), low + (peak - low) * (1 - clip(p, 0, 1)))

layer step_decay(lr, every, factor=0.1, warmup=0):
    return where(step < warmup, lr * (step + 1) / max(warmup, 1), lr * factor ** float32((step - warmup) // every))

layer exponential(lr, factor, warmup=0):
    return where(step < warmup, lr * (step + 1) / max(warmup, 1), lr * factor ** float32(step - warmup))

layer constant_lr(lr, warmup=0):
    return where(step < warmup, lr * (step + 1) / max(warmup, 1), lr)

# Smith and Topin 2018: up to the peak in the first part of the run, then down to almost nothing, both along half a cosine
layer one_cycle(peak, rise=0.3, start=25.0, end=10000.0):
    let    turn = rise * steps
    up = clip(step / max(turn, 1), 0, 1)
    down = clip((step - turn) / max(steps - 1 - turn, 1), 0, 1)
    first = peak / start + (peak - peak / start) * (1 - cos(pi * up)) / 2
    last = peak / (start * end) + (peak - peak / (start * end)) * (1 + cos(pi * down)) / 2
    return where(step < turn, first, last)

# warm-up, stable, decay (Hu et al. 2024): the last `decay` steps go down in a line
layer wsd(peak, warmup=0, decay=0, low=0.0):
    left = (steps - step) / max(decay, 1)
    return where(step < warmup, peak * (step + 1) / max(warmup, 1), low + (peak - low) * clip(left, 0, 1))
