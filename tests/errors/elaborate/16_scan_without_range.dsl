model M:
    dims n=2
    input x[n]

    #
    scan q carry h = 0.0:
        h = h + 1.0
    output h
