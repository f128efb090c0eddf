# Every mask is a predicate of indices.
layer masked_scores(s[b, h, i, j], document[b, j]: int32, length[b]: int32,
                    pattern[p, q]: bool, kind="causal", window=4, dilation=2, stride=4, prefix=3, block=8):
    if kind == "alibi":
        slope[h] = 2 ** (-8 * (h + 1) / size(h))
        s[b, h, i, j] = s[b, h, i, j] - slope[h] * abs(i - j)
        keep[b, i, j] = j <= i
    elif kind == "window":
        keep[b, i, j] = 0 <= i - j < window
    elif kind == "dilated":
        keep[b, i, j] = 0 <= i - j < window * dilation and (i - j) % dilation == 0
    elif kind == "strided":
        keep[b, i, j] = j <= i and (i - j < window or j % stride == 0)
    elif kind == "global":
        keep[b, i, j] = abs(i - j) < window or i < prefix or j < prefix
    elif kind == "prefix":
        keep[b, i, j] = j <= i or j < prefix
    elif kind == "documents":
        keep[b, i, j] = j <= i and document[b, i] == document[b, j]
    elif kind == "blocks":
        keep[b, i, j] = pattern[i // block, j // block]
    else:
        keep[b, i, j] = j <= i
    return t[b, h, i, j] = where(keep[b, i, j] and j < length[b], s[b, h, i, j], -inf)

model M:
    let kind = "causal"
    input s[2, 4, 6, 6], document[2, 6]: int32, length[2]: int32, pattern[3, 3]: bool
    z = masked_scores(s, document, length, pattern, kind=kind, window=2, block=2)
    output y[b, h, i, j] = softmax[j](z[b, h, i, j])
