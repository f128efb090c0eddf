# Causal softmax attention after learned positions.
model SoftmaxAttention:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + 40 * positions(time, width)
    repeat 2:
        x = x + self_attention(layernorm(x), 2, causal=true)
        x = x + mlp(layernorm(x), hidden=16)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
