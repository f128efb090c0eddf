model LM:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    input   tokens[batch, time]: int32
    emb = use embedding(vocab, width)
    e = emb(tokens) + h
    logits[b, t, v] = sum[d](e[b, t, d] * emb.table[v, d])
    loss    cross_entropy(logits, targets)
train:
    optimizer  sgd(lr=1.0)
