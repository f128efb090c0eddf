model M:
    input t[2, 3]: int32
    logits = embedding(t, 5, 5)
    output logits
generate:
    over time from logits greedy(3, 4)
    length 3
    length 4
    stop 3, 4
