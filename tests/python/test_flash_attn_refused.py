"""What flash-attn's functions refuse, and that nothing has been written then."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import attn  # noqa: E402
from attn import flash_attn as fa  # noqa: E402
from test_flash_attn import tensors  # noqa: E402


def test_with_kvcache_errors_change_nothing():
    q, k, v, k_cache, v_cache = tensors(
        (2, 3, 4, 16), (2, 3, 2, 16), (2, 3, 2, 16), (2, 8, 2, 16), (2, 8, 2, 16)
    )
    before = k_cache.clone(), v_cache.clone()
    cos = sin = torch.zeros(6, 4)
    at = torch.tensor
    wrong = [
        {"cache_seqlens": at([4, 6])},
        {"cache_seqlens": 9},
        {"cache_seqlens": at([4, -1])},
        {"cache_seqlens": at([4])},
        {"cache_seqlens": at([4, 4]), "cache_batch_idx": at([0, 2])},
        {"cache_seqlens": 0, "cache_batch_idx": at([-1, 0])},
        {"cache_seqlens": None},
        {"cache_seqlens": 4, "rotary_cos": cos, "rotary_sin": sin},
        {"cache_seqlens": 1, "rotary_cos": cos},
        {"cache_seqlens": 1, "softcap": -1.0},
        {"cache_seqlens": 1, "block_table": at([[0], [2]], dtype=torch.int32)},
        {"cache_seqlens": 1, "block_table": at([[0]], dtype=torch.int32)},
        {"cache_seqlens": 6, "block_table": at([[0], [1]], dtype=torch.int32)},
        {"cache_seqlens": 0, "cache_leftpad": at([4, 0])},
        {"cache_seqlens": 1, "cache_leftpad": at([9, 0])},
        {"cache_seqlens": 1, "window_size": (-2, 0)},
        {"cache_seqlens": 1, "num_splits": -1},
        {"cache_seqlens": 1, "alibi_slopes": torch.zeros(3)},
        {"cache_seqlens": 1, "v": v[:, :2]},
        {"cache_seqlens": 1, "k": k.bfloat16()},
        {"cache_seqlens": 1, "k": k[..., :8]},
        {"cache_seqlens": 1, "q": q[..., :8]},
        {"cache_seqlens": 1, "q": q[:1]},
        {"cache_seqlens": at([2**32 + 1, 1])},
        {"cache_seqlens": 1, "block_table": at([[0], [2**32 + 1]])},
        {"cache_seqlens": 1, "k_cache": k_cache[:1].expand(2, -1, -1, -1)},
    ]
    for arguments in wrong:
        with pytest.raises(attn.Error):
            fa.flash_attn_with_kvcache(
                **{"q": q, "k_cache": k_cache, "v_cache": v_cache, "k": k, "v": v, **arguments}
            )
    for arguments in [
        {"k": None},
        {"v": None},
        {"k": 1},
        {"cache_seqlens": "1"},
        {"block_table": 3},
        {"num_splits": 1.5},
        {"return_softmax_lse": "yes"},
    ]:
        with pytest.raises(TypeError):
            fa.flash_attn_with_kvcache(
                **{
                    "q": q,
                    "k_cache": k_cache,
                    "v_cache": v_cache,
                    "k": k,
                    "v": v,
                    "cache_seqlens": 1,
                    **arguments,
                }
            )
    with pytest.raises(attn.Error):
        fa.flash_attn_with_kvcache(q, k_cache, v_cache, rotary_cos=cos, rotary_sin=sin)
    for arguments in [
        {"k_cache": k_cache.clone().requires_grad_()},
        {"q": q.clone().requires_grad_()},
        {"alibi_slopes": torch.zeros(4, requires_grad=True)},
        {"alibi_slopes": torch.zeros(2, 4)},
        {"q": q.to("meta")},
        {"block_table": at([[0], [1]], dtype=torch.int32), "cache_leftpad": at([0, 0])},
    ]:
        with pytest.raises(NotImplementedError):
            fa.flash_attn_with_kvcache(
                **{
                    "q": q,
                    "k_cache": k_cache,
                    "v_cache": v_cache,
                    "k": k,
                    "v": v,
                    "cache_seqlens": 1,
                    **arguments,
                }
            )
    torch.testing.assert_close((k_cache, v_cache), before, atol=0, rtol=0)


def test_refused():
    q, k, v = tensors((2, 5, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8))
    offsets = torch.tensor([0, 2, 5], dtype=torch.int32)
    packed = torch.randn(5, 3, 2, 8)
    with pytest.raises(NotImplementedError, match="dropout_p"):
        fa.flash_attn_func(q, k, v, 0.1)
    for call in [
        lambda: fa.flash_attn_func(q[0], k, v),
        lambda: fa.flash_attn_func(q, k[:, :, :1], v),
        lambda: fa.flash_attn_func(q, k, v, window_size=(-2, 0)),
        lambda: fa.flash_attn_func(q, k, v, softcap=-1.0),
        lambda: fa.flash_attn_func(q, k, v, alibi_slopes=torch.zeros(3, 4)),
        lambda: fa.flash_attn_qkvpacked_func(torch.randn(2, 5, 2, 4, 8)),
        lambda: fa.flash_attn_kvpacked_func(q, torch.randn(2, 9, 3, 2, 8)),
        lambda: fa.flash_attn_varlen_qkvpacked_func(packed, offsets[:2], 2),
        lambda: fa.flash_attn_varlen_qkvpacked_func(packed, offsets, 2),
        lambda: fa.flash_attn_varlen_qkvpacked_func(packed, offsets.float(), 3),
        lambda: fa.flash_attn_varlen_qkvpacked_func(packed[..., 0], offsets, 3),
    ]:
        with pytest.raises(attn.Error):
            call()
    for call in [
        lambda: fa.flash_attn_func(q.numpy(), k, v),
        lambda: fa.flash_attn_func(q, None, v),
        lambda: fa.flash_attn_func(q, k, v, deterministic="yes"),
        lambda: fa.flash_attn_func(q, k, v, return_attn_probs="yes"),
        lambda: fa.flash_attn_varlen_qkvpacked_func(packed, [0, 5], 5),
    ]:
        with pytest.raises(TypeError):
            call()
    pages = torch.randn(4, 4, 2, 8)
    table = torch.tensor([[0, 1], [2, 3]])
    for arguments in [{"alibi_slopes": torch.zeros(4, requires_grad=True)}, {"dropout_p": 0.5}]:
        with pytest.raises(NotImplementedError):
            fa.flash_attn_varlen_func(
                q[0], pages, pages, offsets, offsets, 3, 3, block_table=table, **arguments
            )
    for name, wrong in {
        r"cu_seqlens_q\[0\] is 1": (offsets + 1, offsets, 3, 3, None),
        "max_seqlen_k is -1": (offsets, offsets, 3, -1, None),
        r"block_table\[1, 0\] is 9": (offsets, offsets, 3, 3, torch.tensor([[0, 1], [9, 3]])),
    }.items():
        *lengths, pages_of_each = wrong
        keys = k[0] if pages_of_each is None else pages
        with pytest.raises(attn.Error, match=name):
            fa.flash_attn_varlen_func(q[0], keys[:5], keys[:5], *lengths, block_table=pages_of_each)
