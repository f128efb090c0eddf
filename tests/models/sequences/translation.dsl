# An encoder that sees all of the source, a decoder that is causal in the answer.
model Translation:
    dims    batch=3, source=7, time=12
    let     vocab=23, width=8
    input   text[batch, source]: int32
    input   tokens[batch, time]: int32
    memory = 40 * embedding(text, vocab, width)
    memory = memory + self_attention(rmsnorm(memory), 2)
    x = 40 * embedding(tokens, vocab, width)
    x = x + self_attention(rmsnorm(x), 2, causal=true)
    x = x + cross_attention(rmsnorm(x), rmsnorm(memory), 2)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
