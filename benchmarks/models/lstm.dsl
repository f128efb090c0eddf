# One LSTM layer of width 256 over 128 positions, batch 32, unless told otherwise; every position's state is a guess of a class.
model LSTM:
    dims    batch=32, time=128, width=256
    input   x[batch, time, width]
    input   y[batch, time]: int32
    logits = lstm(x, width)
    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
