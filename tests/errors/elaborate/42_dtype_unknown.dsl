model M:
    input x[3]: flot32
    output x
