from numpy import x
