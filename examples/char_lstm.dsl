# char_lstm.dsl — the recurrent reader that came before the transformer.
#   learns    the next character of the prose in Python's own help texts
#   expect    held-out loss below 2.3 nats a character: dslc train examples/char_lstm.dsl
model CharLSTM:
    dims    batch=32, time=64
    let     vocab=96, width=192

    input   tokens[batch, time]: int32
    input   targets[batch, time]: int32

    x = embedding(tokens, vocab, width)
    x = lstm(x, width)
    logits = linear(x, vocab)

    output  logits
    loss    cross_entropy(logits, targets)

train:
    data       text(pydoc_topics(), window=time, split=0.1)
    steps      600
    optimizer  adamw(lr=cosine(peak=5e-3, warmup=50), weight_decay=0.01)
    clip       norm(1.0)
    seed       0

generate:
    over time from logits sample(temperature=0.8, top_k=40)
