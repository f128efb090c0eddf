# Documents in one row that do not see each other: their numbers are a second input over time; a length of each row.
model Documents:
    dims    batch=3, time=12
    let     vocab=23, width=8
    input   tokens[batch, time]: int32
    input   document[batch, time]: int32
    x = 40 * embedding(tokens, vocab, width)
    s[b, i, j] = sum[d](x[b, i, d] * x[b, j, d]) / sqrt(size(d))
    p[b, i, j] = softmax[j](where(j <= i and document[b, i] == document[b, j], s[b, i, j], -inf))
    y[b, i, d] = sum[j](p[b, i, j] * x[b, j, d])
    logits = linear(x + y, vocab)
    output  logits

generate:
    over time from logits greedy()
