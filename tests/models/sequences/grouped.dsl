# Grouped and multi-query attention with rotary positions (Ainslie et al. 2023, Shazeer 2019).
model Grouped:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = x + self_attention(rmsnorm(x), 4, kv_heads=2, causal=true, rotate=true)
    x = x + self_attention(rmsnorm(x), 4, kv_heads=1, causal=true, rotate=true)
    x = x + swiglu(rmsnorm(x), hidden=16)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
