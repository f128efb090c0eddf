model M:
    input x[3]
    emit y[t] = 1.0
    output x
