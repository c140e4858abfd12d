"""KVCache and PagedKVCache."""

import attn
import numpy as np
import pytest

rng = np.random.default_rng(17)
q, k, v = (
    rng.standard_normal(s).astype(np.float32) for s in [(2, 4, 3, 8), (2, 2, 9, 8), (2, 2, 9, 6)]
)


@pytest.mark.parametrize(
    "dtype, tolerance", [("f32", 1e-6), ("bf16", 3e-2), ("f16", 3e-3), ("i8", 5e-2)]
)
def test_cache(dtype, tolerance):
    cache = attn.KVCache(2, 2, 16, 8, v_head_dim=6, dtype=dtype)
    for begin, end in [(0, 5), (5, 9)]:
        cache.append(k[:, :, begin:end], v[:, :, begin:end])
    assert cache.length(0) == cache.length(1) == 9
    out, lse = cache.attention(q, causal=True, return_lse=True)
    expected, expected_lse = attn.attention(q, k, v, causal=True, return_lse=True)
    np.testing.assert_allclose(out, expected, atol=tolerance)
    np.testing.assert_allclose(lse, expected_lse, atol=tolerance)
    given = np.empty(out.shape, np.float16)
    assert cache.attention(q, causal=True, out=given) is given
    cache.truncate(1, 4)
    expected = attn.attention(q, k, v, causal=True, kv_lens=np.array([9, 4]))
    np.testing.assert_allclose(cache.attention(q, causal=True), expected, atol=tolerance)
    cache.clear()
    assert cache.length(0) == 0 and (cache.attention(q) == 0).all()


def test_rolling_cache():
    cache = attn.KVCache(
        batch=2, num_kv_heads=2, capacity=4, head_dim=8, v_head_dim=6, rolling=True
    )
    for token in range(9):
        cache.append(k[:, :, token : token + 1], v[:, :, token : token + 1])
    assert cache.length(0) == 4
    np.testing.assert_allclose(
        cache.attention(q[:, :, :1]),
        attn.attention(q[:, :, :1], k[:, :, 5:], v[:, :, 5:]),
        atol=1e-6,
    )


def test_cache_errors():
    cache = attn.KVCache(2, 2, 4, 8, 6)
    with pytest.raises(attn.Error, match="room|capacity|full"):
        cache.append(k, v)
    assert cache.length(0) == 0
    for wrong in [
        lambda: cache.length(2),
        lambda: cache.length(-1),
        lambda: cache.truncate(0, 1),
        lambda: cache.attention(q, kv_lens=np.array([1, 1])),
        lambda: cache.attention(q[0]),
        lambda: attn.KVCache(2, 2, 4, 8, dtype="f64"),
        lambda: attn.KVCache(-1, 2, 4, 8),
        lambda: attn.KVCache(1, 2, 2**62, 8),
    ]:
        with pytest.raises(attn.Error):
            wrong()
    for wrong in [
        lambda: cache.length(None),
        lambda: cache.length(0.5),
        lambda: cache.append(1, v),
        lambda: attn.KVCache("a", 2, 4, 8),
        lambda: attn.KVCache(1, 2, 4, 8, rolling=1),
        lambda: cache.attention(q, sequences=[0]),
    ]:
        with pytest.raises(TypeError):
            wrong()


def test_paged_cache():
    cache = attn.PagedKVCache(8, 4, 2, 8, v_head_dim=6)
    first = cache.create()
    cache.append(first, k[0], v[0])
    second = cache.fork(first)
    assert cache.length(second) == 9 and cache.free_pages == 5
    cache.truncate(second, 6)
    cache.append(second, k[1, :, 6:], v[1, :, 6:])
    keys, values = (np.stack([x[0], np.concatenate([x[0, :, :6], x[1, :, 6:]], 1)]) for x in (k, v))
    expected = attn.attention(q, keys, values, causal=True, return_lse=True)
    for got, wanted in zip(
        cache.attention(q, [first, second], causal=True, return_lse=True), expected
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    out = np.empty_like(expected[0])
    assert cache.attention(q, (first, second), causal=True, out=out) is out
    with pytest.raises(attn.Error, match="sequences has 1 entries"):
        cache.attention(q, [first])
    cache.remove(first)
    cache.remove(second)
    assert cache.free_pages == 8
    for wrong in [
        lambda: cache.attention(q, [0, 9]),
        lambda: cache.attention(q, [0]),
        lambda: cache.remove(3),
        lambda: cache.append(7, k[0], v[0]),
        lambda: attn.PagedKVCache(8, 0, 2, 8),
    ]:
        with pytest.raises(attn.Error):
            wrong()
    for wrong in [
        lambda: cache.attention(q, 0),
        lambda: cache.attention(q, ["a"]),
        lambda: cache.attention(q, "ab"),
        lambda: cache.fork(None),
    ]:
        with pytest.raises(TypeError):
            wrong()
    pool = attn.PagedKVCache(1, 4, 2, 8, v_head_dim=6)
    with pytest.raises(attn.Error, match="pages"):
        pool.append(pool.create(), k[0], v[0])
    assert pool.free_pages == 1 and pool.length(0) == 0
