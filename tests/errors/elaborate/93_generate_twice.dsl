model M:
    input t[2, 3]: int32
    logits = embedding(t, 5, 5)
    output logits
generate:
    over time from logits sample(0.5, temperature=0.7)
generate:
    over time from logits greedy()
