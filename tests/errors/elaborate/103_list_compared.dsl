let widths = [4, 8]
model M:
    input x[3]
    if widths > 3:
        x = relu(x)
    output x
