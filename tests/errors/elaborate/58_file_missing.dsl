from "layers_of_mine.dsl" import block

model M:
    input x[2, 3]
    output y = block(x)
