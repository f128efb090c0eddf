model M:
    dims b<3
