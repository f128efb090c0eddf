model M:
    y = 3;; z = 4
