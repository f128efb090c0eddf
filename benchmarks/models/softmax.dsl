# Softmax of rows.
model Rows:
    input   x[16384, 1024]
    output  logits = softmax(x)
