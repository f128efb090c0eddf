# char_gpt.dsl — a decoder-only transformer that learns to write.
#   learns    the next character of the prose in Python's own help texts (pydoc_data.topics)
#   expect    held-out loss from above 4 to below 2.1 nats a character in two minutes on two cores:
#             dslc train examples/char_gpt.dsl, then dslc generate runs/char_gpt --prompt "The "
model CharGPT:
    dims    batch=32, time=128
    let     vocab=96, width=128, heads=4, depth=4

    input   tokens[batch, time]: int32
    input   targets[batch, time]: int32

    emb = use embedding(vocab, width)            # `use` makes an instance; calling it twice shares its parameters
    x = emb(tokens) + positions(time, width)
    repeat depth:                                # each turn has its own parameters
        x = x + self_attention(rmsnorm(x), heads, causal=true)
        x = x + swiglu(rmsnorm(x), hidden=4*width)
    logits[b, t, v] = sum[d](rmsnorm(x)[b, t, d] * emb.table[v, d])

    output  logits
    loss    cross_entropy(logits, targets)
    metric  perplexity = exp(cross_entropy(logits, targets))

train:
    data       text(pydoc_topics(), window=time, split=0.1)      # real prose, folded to printable ASCII
    steps      480
    optimizer  adamw(lr=cosine(peak=2e-3, warmup=100), betas=(0.9, 0.95), weight_decay=0.1)
    clip       norm(1.0)
    precision  float32
    seed       0

generate:
    over time from logits sample(temperature=0.5, top_k=40)
