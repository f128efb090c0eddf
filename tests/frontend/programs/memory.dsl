# A ring of keys and values kept between steps; the nearest ones by a sort.
layer memory_attention(q[b, i, c], k[b, i, c], v[b, i, c], slots=64, near=4):
    state mk[slots, c], mv[slots, c] ~ zeros();  state head: int32 = 0
    n[b, i, m] = sum[c](q[b, i, c] * mk[m, c])
    order[b, i, m] = argsort[m](-n[b, i, m])
    pick[b, i, r < near] = order[b, i, r]
    near_s[b, i, r] = n[b, i, pick[b, i, r]]
    s[b, i, j < size(i) + near] = where(j < near, near_s[b, i, j], where(j - near <= i, sum[c](q[b, i, c] * k[b, j - near, c]), -inf)) / sqrt(size(c))
    p[b, i, j] = softmax[j](s[b, i, j])
    o[b, i, c] = sum[r < near](p[b, i, r] * mv[pick[b, i, r], c]) + sum[j](p[b, i, j + near] * v[b, j, c])
    new[m < slots] = (m - head) % slots
    mk[m, c] <- stop_gradient(where(new[m] < size(i), k[0, new[m], c], mk[m, c]))
    mv[m, c] <- stop_gradient(where(new[m] < size(i), v[0, new[m], c], mv[m, c]))
    head <- (head + i) % slots
    return o

model M:
    input q[2, 4, 3], k[2, 4, 3], v[2, 4, 3]
    output y = memory_attention(q, k, v, slots=10, near=2)
