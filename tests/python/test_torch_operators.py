"""torch.compile, the operators that it uses, and torch.func."""

import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import attn  # noqa: E402
import attn.torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from test_torch import mask_of, sdpa, tensors  # noqa: E402


def test_operators():
    q, k, v = tensors((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 6), requires_grad=True)
    options = attn._options.pack(
        causal=-1, window=(3, None), mask=mask_of((1, 2, 1, 7), requires_grad=True), softcap=4.0
    )
    arguments = attn._operators.to_arguments(q, k, v, options, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = torch.library.opcheck(torch.ops.attn.attention, arguments)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    def function(q, k, v, mask):
        heads = [x.unflatten(-1, (2, 8)).transpose(1, 2) for x in (q, k, v)]
        out = sdpa(*heads, attn_mask=mask) + sdpa(*heads, is_causal=True)
        return out.transpose(1, 2).flatten(-2).square().sum()

    torch._dynamo.reset()
    fast = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (9, 12):
        variables = tensors(*[(2, length, 16)] * 3, requires_grad=True)
        variables.append(mask_of((length, length), requires_grad=True))
        got, wanted = (torch.autograd.grad(f(*variables), variables) for f in (fast, function))
        for a, b in zip(got, wanted):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_functions_of_torch_func():
    q, k, v, mask = tensors((3, 2, 2, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8), (5, 5))
    for name, call in {
        "vmap": lambda f: torch.vmap(lambda t: f(t, k, t))(q),
        "grad": lambda f: torch.func.grad(lambda t: f(t, k, v).square().sum())(q[0]),
        "grad of a mask": lambda f: torch.func.grad(
            lambda m: f(k, k, v, attn_mask=m).square().sum()
        )(mask),
        "vmap of grad": lambda f: torch.vmap(
            torch.func.grad(lambda t: f(t, k, v, is_causal=True).square().sum())
        )(q),
        "grad of vmap": lambda f: torch.func.grad(
            lambda t: torch.vmap(lambda u: f(u, k, v))(t).square().sum()
        )(q),
        "jacrev": lambda f: torch.func.jacrev(lambda t: f(t, k, v))(q[0]),
    }.items():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = call(F.scaled_dot_product_attention)
        torch.testing.assert_close(
            call(sdpa), expected, atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}: {text}"
        )


def test_refused_in_torch_func():
    (x,) = tensors((1, 2, 5, 8))
    first = torch.func.grad(lambda t: sdpa(t, t, t).sum())
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.func.grad(lambda t: first(t).sum())(x)
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(lambda t: sdpa(t, t, t), (x,), (x,))
