model A:
    input x[2]
    output y = x * 2
model M:
    input x[2], z[2]
    a = A(x, x=z)
    output a.y
