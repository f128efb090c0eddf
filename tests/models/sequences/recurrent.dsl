# Recurrent layers of the library over each other.
model Recurrent:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    x = lstm(x, 8)
    x = x + gru(x, width)
    x = x + rnn(x, width)
    x = x + peephole_lstm(x, width)
    x = x + stacked(x, width, layers=2, cell=gru)
    logits = linear(x, vocab)
    output  logits

generate:
    over time from logits greedy()
