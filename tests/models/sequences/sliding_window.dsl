# Attention of a window, two layers deep, over sinusoids.
model SlidingWindow:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + sinusoidal_positions(time, width)
    repeat 2:
        x = x + self_attention(rmsnorm(x), 2, causal=true, window=4)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
