# An LSTM over 1024 characters, width 256, batch 16: what is kept of its turns is most of a training step's memory.
model LongLSTM:
    dims    batch=16, time=1024
    let     vocab=65, width=256
    input   x[batch, time]: int32
    input   y[batch, time]: int32

    h = lstm(embedding(x, vocab, width), width)
    logits = linear(h, vocab)

    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
