model M:
    input step[2, 3]
    z[a, b] = step[a, b] + uniform()
    output z
