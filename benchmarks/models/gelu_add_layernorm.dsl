# gelu, a sum and layer normalization of rows.
model Rows:
    input   x[16384, 1024]
    output  logits = layernorm(gelu(x) + x)
