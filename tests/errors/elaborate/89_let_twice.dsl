let a = 1
let a = 2
model M:
    input x[2]
    output y = x * a
