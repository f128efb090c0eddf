from "layers.dsl" import linear as f
from "layers.dsl" import lstm as f
model M:
    input x[2, 3]
    output y = f(x, 3)
