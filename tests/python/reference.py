"""What a call means, in double precision and from the formulas, with NumPy."""

import numpy as np


def visible(q_len, kv_len, *, causal=False, q_position=None, window=None, kv_len_of=None):
    """Which keys [q_len, kv_len] a query of one sequence sees, and the distances |p - j|."""
    length = kv_len if kv_len_of is None else kv_len_of
    offsets = {True: length - q_len, "bottom_right": length - q_len, "top_left": 0}
    offset = length - q_len
    for position in (causal, q_position):
        if position is not None and position is not False:
            offset = offsets[position] if type(position) in (bool, str) else position
    p = np.arange(q_len)[:, None] + offset
    j = np.arange(kv_len)[None, :]
    seen = np.broadcast_to(j < length, (q_len, kv_len))
    if causal is not False:
        seen = seen & (j <= p)
    left, right = window or (None, None)
    if left is not None:
        seen = seen & (j >= p - left)
    if right is not None:
        seen = seen & (j <= p + right)
    return seen, np.abs(p - j)


def attention(
    q,
    k,
    v,
    *,
    scale=None,
    softcap=None,
    causal=False,
    q_position=None,
    window=None,
    mask=None,
    alibi_slopes=None,
    kv_lens=None,
    sinks=None,
):
    """O and lse in double; a row that sees no key has 0 and -inf, or its sink."""
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    kv_heads, kv_len = k.shape[1:3]
    k, v = (np.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
    s = np.einsum("bhqd,bhkd->bhqk", q, k) * (dim**-0.5 if scale is None else scale)
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    seen = np.ones_like(s, dtype=bool)
    for b in range(batch):
        length = None if kv_lens is None else int(kv_lens[b])
        which, distance = visible(
            q_len, kv_len, causal=causal, q_position=q_position, window=window, kv_len_of=length
        )
        seen[b] &= which
        if alibi_slopes is not None:
            s[b] -= np.asarray(alibi_slopes, np.float64)[:, None, None] * distance
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype == bool:
            seen &= np.broadcast_to(mask, s.shape)
        else:
            s = s + np.broadcast_to(mask.astype(np.float64), s.shape)
    s = np.where(seen, s, -np.inf)
    largest = s.max(-1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        sink = np.asarray(sinks, np.float64)[None, :, None, None]
        largest = np.maximum(largest, sink)
    largest = np.where(np.isfinite(largest), largest, 0)
    e = np.exp(s - largest)
    total = e.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sink - largest)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(total > 0, e / np.where(total > 0, total, 1), 0)
        lse = (largest + np.log(total))[..., 0]
    return p @ v, lse
