model M:
    dims time=4
    input x[time]
    scan t < time carry total = 0:
        total = total + x[t]
    output total
