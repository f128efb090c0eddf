let a = b + 1
let b = a * 2

model M:
    input x[a]
    output x
