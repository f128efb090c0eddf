# One LSTM layer of width 256 over 128 positions, batch 32; every position's state is a guess of a class.
model LSTM:
    input   x[32, 128, 256]
    input   y[32, 128]: int32
    logits = lstm(x, 256)
    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer  adamw(lr=1e-6, weight_decay=0.01)
    steps      1
