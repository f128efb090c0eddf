# Vectors in place of tokens: a filter over measurements.
model Vectors:
    dims    batch=3, time=12
    input   x[batch, time, 5]
    y = gru(x, 8)
    output  logits = linear(y + self_attention(y, 2, causal=true, window=4), 7)
