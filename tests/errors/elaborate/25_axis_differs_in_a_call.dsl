layer decoder(x[b, t, d], memory[b, t, d]):
    return y[b, t, d] = x[b, t, d] + memory[b, t, d]

model M:
    dims b=2
    input x[b, 24, 8], memory[b, 20, 8]
    output y = decoder(x, memory)
