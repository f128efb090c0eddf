# A decoder-only transformer; char_gpt.yaml says the same.
from "library.dsl" import self_attention, rmsnorm, swiglu, positions as learned_positions
model CharGPT:
    dims batch=32, time<=128
    let vocab=96, width=128, heads=4, depth=4
    input tokens[batch, time]: int32
    input targets[batch, time]: int32
    emb = use embedding(vocab, width)
    x = emb(tokens) + learned_positions(time, width)
    repeat depth:
        x = x + self_attention(rmsnorm(x), heads, causal=true)
        x = x + swiglu(rmsnorm(x), hidden=4 * width)
    logits[b, t, v] = sum[d](rmsnorm(x)[b, t, d] * emb.table[v, d])
    output logits
    loss cross_entropy(logits, targets)
    metric perplexity = exp(cross_entropy(logits, targets))
train:
    data text(pydoc_topics(), window=time)
    steps 2000
    optimizer adamw(lr=cosine(peak=1e-3, warmup=100), betas=[0.9, 0.95], weight_decay=0.1)
    clip norm(1.0)
    memory 2 GiB
    seed 0
generate:
    over time from logits sample(temperature=0.8, top_k=40)
    length 200
