model M:
    let k = int(3.5, 9), m = float32(1, 2), q = clip(1, 2, 3, 4), r = max([1, 2], axis=9)
    input x[2, 3]
    output y = x * k * m * q * r
