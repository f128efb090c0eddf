model M:
    input t[2, 3]: int32
    logits = embedding(t, 5, 5)
    output logits
generate:
    over time from logits greedy()
    stop 3
