"""PyTorch tensors: results, gradients, scaled_dot_product_attention, torch.compile."""

import collections
import gc
import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import attn  # noqa: E402
import attn.torch  # noqa: E402
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402

sdpa = attn.torch.scaled_dot_product_attention


def tensors(*shapes, dtype=torch.float32, requires_grad=False, seed=23):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [tensor.requires_grad_(requires_grad) for tensor in made]


def mask_of(shape, seed=29, **settings):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **settings)


CASES = {
    "rank 4": ((2, 4, 9, 16), (2, 4, 11, 16), (2, 4, 11, 8), {}),
    "rank 2": ((9, 16), (7, 16), (7, 8), {}),
    "rank 3": ((3, 9, 16), (3, 7, 16), (3, 7, 8), {}),
    "rank 5": ((2, 3, 4, 9, 16), (2, 3, 4, 7, 16), (2, 3, 4, 7, 8), {}),
    "top left": ((1, 2, 5, 8), (1, 2, 9, 8), (1, 2, 9, 8), {"is_causal": True}),
    "tall top left": ((1, 2, 9, 8), (1, 2, 5, 8), (1, 2, 5, 8), {"is_causal": True}),
    "scale": ((1, 2, 5, 8), (1, 2, 9, 8), (1, 2, 9, 8), {"scale": 0.3}),
    "shared heads": ((2, 4, 9, 16), (2, 2, 9, 16), (2, 2, 9, 16), {"enable_gqa": True}),
    "one head": ((2, 4, 9, 16), (1, 1, 11, 16), (2, 1, 11, 8), {}),
    "one batch": ((1, 4, 9, 16), (2, 4, 11, 16), (2, 4, 11, 8), {}),
    "bool mask": (
        (2, 4, 9, 16),
        (2, 4, 11, 16),
        (2, 4, 11, 8),
        {"attn_mask": mask_of((9, 11)) > -1},
    ),
    "float mask": (
        (2, 4, 9, 16),
        (2, 4, 11, 16),
        (2, 4, 11, 8),
        {"attn_mask": mask_of((2, 1, 9, 11))},
    ),
    "row mask": ((2, 4, 9, 16), (2, 4, 11, 16), (2, 4, 11, 8), {"attn_mask": mask_of((9, 1))}),
    "rank 5 mask": (
        (2, 3, 4, 9, 8),
        (2, 3, 4, 7, 8),
        (2, 3, 4, 7, 8),
        {"attn_mask": mask_of((3, 1, 9, 7))},
    ),
    "rank 2 mask": ((9, 16), (7, 16), (7, 8), {"attn_mask": mask_of((9, 7))}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_scaled_dot_product_attention(case):
    *shapes, options = case
    options = dict(options)
    q, k, v = tensors(*shapes, requires_grad=True)
    variables = [q, k, v]
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        options["attn_mask"] = mask.clone().requires_grad_()
        variables.append(options["attn_mask"])
    out, expected = sdpa(q, k, v, **options), F.scaled_dot_product_attention(q, k, v, **options)
    assert out.shape == expected.shape and out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)
    (weights,) = tensors(expected.shape)
    got = torch.autograd.grad((out * weights).sum(), variables)
    wanted = torch.autograd.grad((expected * weights).sum(), variables)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(sdpa(q, k, v, **options), out, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit(dtype):
    q, k, v = tensors(*[(1, 2, 33, 32)] * 3, dtype=dtype, requires_grad=True)
    mask = mask_of((33, 33), dtype=dtype, requires_grad=True)
    out = sdpa(q, k, v, mask)
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask.float())
    torch.testing.assert_close(out.float(), exact, atol=2e-2, rtol=2e-2)
    got = torch.autograd.grad(out.sum(), [q, k, v, mask])
    wanted = torch.autograd.grad(exact.sum(), [q, k, v, mask])
    for a, b in zip(got, wanted):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b.float(), atol=5e-2, rtol=5e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sdpa(*tensors(*[(1, 2, 5, 8)] * 3)).dtype == torch.bfloat16


def test_refused():
    q, k, v = tensors(*[(2, 4, 9, 8)] * 3)
    with pytest.raises(NotImplementedError, match="dropout_p"):
        sdpa(q, k, v, dropout_p=0.1)
    for options in (
        {"attn_mask": torch.ones(9, 9, dtype=torch.bool), "is_causal": True},
        {"attn_mask": torch.ones(9, 8)},
        {"attn_mask": torch.ones(3, 9, 9)},
    ):
        with pytest.raises(attn.Error):
            sdpa(q, k, v, **options)
    with pytest.raises(attn.Error, match="enable_gqa"):
        sdpa(q, k[:, :2], v[:, :2])
    with pytest.raises(attn.Error):
        sdpa(q, k[:, :3], v[:, :3], enable_gqa=True)
    with pytest.raises(attn.Error, match="leading dims"):
        sdpa(torch.cat([q, q[:1]]), k, v)
    with pytest.raises(attn.Error, match="types"):
        sdpa(q, k.bfloat16(), v)
    with pytest.raises(attn.Error):
        sdpa(q.double(), k.double(), v.double())
    with pytest.raises(attn.Error, match="rank 1"):
        sdpa(q[0, 0, 0], k, v)
    with pytest.raises(NotImplementedError, match="device meta"):
        sdpa(q.to("meta"), k, v)
    with pytest.raises(NotImplementedError, match="device meta"):
        attn.attention(q.to("meta"), k, v)
    for wrong in (None, 1, q.numpy()):
        with pytest.raises(TypeError, match="key is"):
            sdpa(q, wrong, v)
    with pytest.raises(attn.Error, match="negative"):
        attn.attention(torch.view_as_complex(q.reshape(2, 4, 9, 4, 2)).conj().imag, k, v)
    with pytest.raises(attn.Error, match="cannot be read"):
        attn.attention(q.to_sparse(), k, v)
    with pytest.raises(TypeError, match="return_lse is of type str"):
        attn.attention(q.requires_grad_(), k, v, return_lse="yes")


def test_attention_is_of_the_kind_of_q():
    q, k, v = tensors(*[(1, 2, 5, 8)] * 3)
    out, lse = attn.attention(q, k, v, return_lse=True)
    assert type(out) is type(lse) is torch.Tensor and lse.dtype == torch.float32
    mixed = attn.attention(q.numpy(), k, v)
    assert isinstance(mixed, np.ndarray)
    np.testing.assert_array_equal(mixed, out.numpy())
    given = torch.empty(1, 2, 5, 8, dtype=torch.bfloat16)
    version = given._version
    assert attn.attention(q, k, v, out=given) is given and given._version > version
    half, _ = attn.attention(*(x.bfloat16() for x in (q, k, v)), return_lse=True)
    assert half.dtype == torch.bfloat16
    assert type(attn.attention(torch.nn.Parameter(q, requires_grad=False), k, v)) is torch.Tensor


def test_attention_is_differentiable():
    q, k, v = tensors((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6), requires_grad=True)
    slopes, sinks = tensors((4,), (4,), requires_grad=True)
    mask = mask_of((1, 4, 5, 7), requires_grad=True)
    options = dict(mask=mask, alibi_slopes=slopes, sinks=sinks, softcap=3.0, causal=True)
    out, lse = attn.attention(q, k, v, return_lse=True, **options)
    # lse is used twice.
    ((out**2).sum() + lse.sum() + (lse**2).sum()).backward()
    plain = {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    expected = attn.attention_backward(
        2 * out.detach(),
        q.detach(),
        k.detach(),
        v.detach(),
        out.detach(),
        lse.detach(),
        dlse=1 + 2 * lse.detach(),
        **plain,
    )
    for tensor, gradient in zip((q, k, v, mask, slopes, sinks), expected):
        torch.testing.assert_close(tensor.grad, gradient, atol=0, rtol=0)
    only_v = torch.autograd.grad(attn.attention(q.detach(), k.detach(), v).sum(), v)[0]
    assert only_v.shape == v.shape
    only_lse = attn.attention(q, k, v, return_lse=True)[1]
    assert torch.autograd.grad(only_lse.sum(), v)[0].eq(0).all()
    blocks = attn.BlockMask.from_ranges([(0, 5, 0, 7)], 5, 7)
    a, b = (attn.attention(q, k, v, block_mask=m).sum() for m in (blocks, None))
    torch.testing.assert_close(
        *(torch.autograd.grad(x, q)[0] for x in (a, b)), atol=1e-6, rtol=1e-5
    )


def test_nothing_is_detached():
    q, k, v = tensors(*[(1, 2, 5, 8)] * 3, requires_grad=True)
    with torch.no_grad():
        out, lse = attn.attention(q, k, v, return_lse=True)
    cache = attn.KVCache(1, 2, 8, 8)
    refused = [
        lambda: attn.attention(q.detach().numpy(), k, v),
        lambda: attn.attention(q, k, v, out=torch.empty(1, 2, 5, 8)),
        lambda: attn.attention(q.detach(), k.detach(), v.detach(), out=q),
        lambda: attn.Plan(q, k, v).run(q, k, v),
        lambda: attn.attention_backward(out, q, k, v, out, lse),
        lambda: cache.append(k, v),
        lambda: cache.attention(q),
        lambda: attn.merge([q], [lse]),
        lambda: attn.merge(q, lse),
        lambda: attn.merge(collections.deque([q]), [lse]),
        lambda: attn.merge(collections.UserList([q]), [lse]),
        lambda: attn.cross_entropy(tensors((4,))[0], q[0, 0, 0, :4].softmax(0)),
        lambda: attn.attention(q, k, v, scale=torch.ones((), requires_grad=True)),
    ]
    for call in refused:
        with pytest.raises((NotImplementedError, attn.Error, TypeError)):
            call()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q.detach(), q.detach())
        for call in (
            lambda: attn.attention(dual, dual, dual),
            lambda: sdpa(dual, dual, dual),
            lambda: attn.softmax(dual),
        ):
            with pytest.raises(NotImplementedError, match="forward mode"):
                call()


def test_second_derivatives_are_refused():
    (x,) = tensors((1, 2, 5, 8), requires_grad=True)
    logits = x[0, 0]
    target = torch.tensor([1, 2, 3, 4, 5])
    for function in (
        lambda: sdpa(x, x, x),
        lambda: attn.softmax(x),
        lambda: attn.logsumexp(x),
        lambda: attn.cross_entropy(logits, target),
    ):
        (gradient,) = torch.autograd.grad(function().sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            gradient.sum().backward()


def test_no_copies_are_kept():
    packed = torch.randn(1, 64, 3, 4, 32, requires_grad=True)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    saved = []

    def pack(tensor):
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = sdpa(q, k, v)
    assert saved.count(packed.untyped_storage().data_ptr()) == 3 and len(saved) == 5  # O and lse
    assert out.transpose(
        1, 2
    ).is_contiguous()  # the order of q, so that what follows copies nothing
    alive = weakref.ref(out)
    out.sum().backward()
    del out
    gc.collect()
    assert alive() is None
    out = sdpa(*(x.detach().clone().requires_grad_() for x in (q, k, v)))
    out.sum().backward(retain_graph=True)
    out.sum().backward()
    with pytest.raises(RuntimeError):
        out.sum().backward()


def test_changed_inputs_are_noticed():
    (x,) = tensors((1, 1, 4, 8), requires_grad=True)
    y = x * 1
    out = sdpa(y, y, y)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_functions_are_differentiable():
    (x,) = tensors((3, 5, 7), requires_grad=True)
    scale, bias = tensors((7,), (5, 1), requires_grad=True)
    target = torch.tensor([[0, 1, 2, 3, 4, 0, 1]] * 3)
    pairs = [
        (lambda: attn.softmax(x, 1, temperature=2.0), lambda: F.softmax(x / 2, 1), [x]),
        (lambda: attn.log_softmax(x, 0), lambda: F.log_softmax(x, 0), [x]),
        (lambda: attn.logsumexp(x, 1), lambda: torch.logsumexp(x, 1), [x]),
        (lambda: attn.entmax(x, 1, alpha=1.0), lambda: F.softmax(x, 1), [x]),
        (
            lambda: attn.cross_entropy(x, target, label_smoothing=0.1, ignore_index=2),
            lambda: F.cross_entropy(x, target, label_smoothing=0.1, ignore_index=2),
            [x],
        ),
        (lambda: attn.rms_norm(x, scale), lambda: F.rms_norm(x, (7,), scale, 1e-5), [x, scale]),
        (
            lambda: attn.layer_norm(x, scale, bias, axis=1),
            lambda: F.layer_norm(x, (5, 7)) * scale + bias,
            [x, scale, bias],
        ),
    ]
    for mine, theirs, variables in pairs:
        a, b = mine(), theirs()
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
        (weights,) = tensors(b.shape)
        got = torch.autograd.grad((a * weights).sum(), variables)
        wanted = torch.autograd.grad((b * weights).sum(), variables)
        for one, other in zip(got, wanted):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    for function in (attn.sparsemax, attn.entmax15):
        y = function(x, 1)
        support = y > 0
        (weights,) = tensors(y.shape)
        (got,) = torch.autograd.grad((y * weights).sum(), x)
        s = torch.where(
            support, torch.ones_like(y) if function is attn.sparsemax else y.sqrt(), 0.0
        )
        expected = s * (weights - (s * weights).sum(1, keepdim=True) / s.sum(1, keepdim=True))
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_threads_of_pytorch():
    q, k, v = tensors(*[(1, 4, 256, 64)] * 3)
    before = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert attn.Plan(q, k, v).num_threads <= number
        torch.set_num_threads(1)
        assert attn.Plan(q, k, v).num_threads == 1
        assert attn.Plan(q, k, v, num_threads=2).num_threads == 2
    finally:
        torch.set_num_threads(before)


FORK = """
import os, torch, attn
x = torch.randn(1, 4, 300, 64)
torch.mm(torch.randn(600, 600), torch.randn(600, 600))
expected = attn.attention(x, x, x).numpy()
plan = attn.Plan(x, x, x)
child = os.fork()
same = all((f(x, x, x).numpy() == expected).all() for f in (attn.attention, plan.run))
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

SEVERAL = """
import threading, torch, attn
x = torch.randn(1, 4, 300, 64)
expected = attn.attention(x, x, x, num_threads=1)
wrong = []
def work():
    for _ in range(50):
        torch.mm(x[0, 0], x[0, 1].T)
        if not torch.equal(attn.attention(x, x, x, num_threads=2), expected):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong
"""


@pytest.mark.parametrize("program", [FORK, SEVERAL], ids=["fork", "threads"])
def test_processes(program):
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


def test_autocast():
    x, g = tensors((1, 2, 5, 8), (1, 2, 5, 8), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sdpa(x, g, g)
        assert out.dtype == torch.bfloat16 and out.requires_grad
        assert attn.attention(x, g, g).dtype == torch.float32
        with pytest.raises(attn.Error, match="f64"):  # which PyTorch's own leaves alone, too
            sdpa(x.double(), x.double(), x.double())
