import numpy
model M:
    y = 3
