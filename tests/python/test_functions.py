"""The softmax family, cross-entropy and norms on NumPy arrays."""

import attn
import numpy as np
import pytest

rng = np.random.default_rng(19)
x = rng.standard_normal((3, 5, 7)).astype(np.float32)


def softmax(x, axis):
    e = np.exp(x.astype(float) - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_family(axis):
    p = softmax(x / 2, axis)
    np.testing.assert_allclose(attn.softmax(x, axis, temperature=2.0), p, rtol=1e-6)
    np.testing.assert_allclose(attn.log_softmax(x, axis=axis, temperature=2), np.log(p), atol=1e-6)
    total = attn.logsumexp(x, axis, temperature=2.0)
    np.testing.assert_allclose(total, np.log(np.exp(x.astype(float) / 2).sum(axis)), atol=1e-6)
    for y in (attn.sparsemax(x, axis), attn.entmax15(x, axis), attn.entmax(x, axis, alpha=1.3)):
        np.testing.assert_allclose(y.sum(axis), 1, atol=1e-6)
    np.testing.assert_array_equal(attn.entmax(x, axis, alpha=2), attn.sparsemax(x, axis))
    np.testing.assert_array_equal(attn.entmax(x, axis, alpha=1.5), attn.entmax15(x, axis))
    assert (attn.sparsemax(x, axis) == 0).any()


def test_results_are_like_inputs():
    half = x.astype(np.float16)
    assert attn.softmax(half).dtype == attn.logsumexp(half).dtype == np.float16
    out = np.empty_like(x)
    assert attn.softmax(x, out=out) is out
    np.testing.assert_array_equal(out, attn.softmax(x))
    again = x.copy()
    np.testing.assert_array_equal(attn.softmax(again, out=again), out)
    assert attn.logsumexp(x[0, 0]).shape == ()
    with pytest.raises(TypeError, match="needs out="):
        attn.softmax(memoryview(x))


def test_cross_entropy():
    p = np.log(softmax(x, 1))
    target = rng.integers(0, 5, (3, 7))
    picked = -np.take_along_axis(p, target[:, None], 1)[:, 0]
    np.testing.assert_allclose(attn.cross_entropy(x, target), picked.mean(), rtol=1e-6)
    np.testing.assert_allclose(attn.cross_entropy(x, target, reduction="none"), picked, atol=1e-6)
    smooth = 0.9 * picked - 0.1 * p.mean(1)
    got = attn.cross_entropy(x, target, label_smoothing=0.1, reduction="sum")
    np.testing.assert_allclose(got, smooth.sum(), rtol=1e-6)
    weight = np.array([1, 2, 0, 1, 3], np.float32)
    weighted = (weight[target] * picked)[target != 3].sum() / weight[target][target != 3].sum()
    got = attn.cross_entropy(x, target.astype(np.int32), weight=weight, ignore_index=3)
    np.testing.assert_allclose(got, weighted, rtol=1e-6)
    whole = softmax(x, 1).astype(np.float32)
    np.testing.assert_allclose(attn.cross_entropy(x, whole), -(whole * p).sum(1).mean(), rtol=1e-6)
    assert got.shape == () and got.dtype == np.float32


def test_norms():
    scale, bias = rng.standard_normal((2, 7)).astype(np.float32)
    d = x.astype(float)
    expected = d / np.sqrt((d**2).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(attn.rms_norm(x, scale), expected, atol=1e-6)
    centered = d - d.mean((1, 2), keepdims=True)
    expected = centered / np.sqrt((centered**2).mean((1, 2), keepdims=True) + 0.1) * scale + bias
    np.testing.assert_allclose(attn.layer_norm(x, scale, bias, 1, 0.1), expected, atol=1e-6)
    assert attn.layer_norm(x, None).shape == x.shape


@pytest.mark.parametrize(
    "kind, call",
    [
        (attn.Error, lambda: attn.softmax(x, 3)),
        (attn.Error, lambda: attn.softmax(x, temperature=0)),
        (attn.Error, lambda: attn.softmax(np.float32(1).reshape(()))),
        (attn.Error, lambda: attn.softmax(x.astype(float))),
        (attn.Error, lambda: attn.entmax(x, alpha=0.5)),
        (attn.Error, lambda: attn.cross_entropy(x, np.full((3, 7), 5))),
        (attn.Error, lambda: attn.cross_entropy(x, np.zeros((3, 6), int))),
        (attn.Error, lambda: attn.cross_entropy(x, np.zeros((3, 7), int), reduction="max")),
        (attn.Error, lambda: attn.cross_entropy(x, np.zeros((3, 7), int), label_smoothing=2)),
        (attn.Error, lambda: attn.rms_norm(x, np.ones(6, np.float32))),
        (attn.Error, lambda: attn.rms_norm(x, None, epsilon=-1)),
        (attn.Error, lambda: attn.softmax(x, out=np.empty((3, 5), np.float32))),
        (TypeError, lambda: attn.softmax("x")),
        (TypeError, lambda: attn.softmax(x, None)),
        (TypeError, lambda: attn.softmax(x, 0.5)),
        (TypeError, lambda: attn.entmax(x)),
        (TypeError, lambda: attn.entmax(x, alpha=None)),
        (TypeError, lambda: attn.cross_entropy(x, 1)),
        (TypeError, lambda: attn.layer_norm(x, 1.0)),
    ],
)
def test_errors(kind, call):
    with pytest.raises(kind):
        call()
