"""Each wrong argument is refused by name, and nothing is written."""

import attn
import numpy as np
import pytest

rng = np.random.default_rng(13)
q, k, v = (rng.standard_normal((2, 2, 5, 8)).astype(np.float32) for _ in range(3))

REFUSED = [
    (attn.Error, "softcap is 0", {"softcap": 0}),
    (attn.Error, "softcap is nan", {"softcap": float("nan")}),
    (attn.Error, "scale is inf", {"scale": float("inf")}),
    (attn.Error, "scale is an integer that is too large", {"scale": 10**400}),
    (attn.Error, "window left is -1", {"window": (-1, 0)}),
    (attn.Error, "window right is -1", {"window": (0, -1)}),
    (attn.Error, "window has 3 entries", {"window": (0, 1, 2)}),
    (attn.Error, 'causal is "left"', {"causal": "left"}),
    (attn.Error, "causal is an integer of more than 64 bits", {"causal": 2**70}),
    (attn.Error, "q_position is 3, but causal", {"causal": True, "q_position": 3}),
    (attn.Error, 'normalizer is "hardmax"', {"normalizer": "hardmax"}),
    (attn.Error, "entmax without alpha", {"normalizer": "entmax"}),
    (attn.Error, "alpha is given with", {"alpha": 1.5}),
    (attn.Error, "alpha is 0.5", {"normalizer": "entmax", "alpha": 0.5}),
    (attn.Error, "sigmoid_bias is given with", {"sigmoid_bias": 0.0}),
    (
        attn.Error,
        "sinks is given with sigmoid",
        {"normalizer": "sigmoid", "sinks": np.zeros(2, np.float32)},
    ),
    (attn.Error, "lse is given with", {"normalizer": "sigmoid", "return_lse": True}),
    (attn.Error, "mask has shape", {"mask": np.ones((5, 6), bool)}),
    (attn.Error, "mask has type f64", {"mask": np.ones((5, 5))}),
    (attn.Error, "mask has type i64", {"mask": np.ones((5, 5), np.int64)}),
    (attn.Error, "alibi_slopes has type", {"alibi_slopes": np.ones(2, np.float16)}),
    (attn.Error, "alibi_slopes has shape", {"alibi_slopes": np.ones(3, np.float32)}),
    (attn.Error, "sinks has shape", {"sinks": np.ones((2, 1), np.float32)}),
    (attn.Error, "kv_lens has type", {"kv_lens": np.ones(2, np.float32)}),
    (attn.Error, r"kv_lens\[1\] is 6", {"kv_lens": np.array([1, 6])}),
    (attn.Error, 'score_matmul is "mkl"', {"score_matmul": "mkl"}),
    (attn.Error, "num_threads is 0", {"num_threads": 0}),
    (attn.Error, 'isa "sse9" is not known', {"isa": "sse9"}),
    (attn.Error, "out has shape", {"out": np.zeros((2, 2, 5, 9), np.float32)}),
    (attn.Error, "out has type f64", {"out": np.zeros((2, 2, 5, 8))}),
    (TypeError, "scale is of type str", {"scale": "1"}),
    (TypeError, "scale is of type numpy.ndarray", {"scale": np.ones(())}),
    (TypeError, "softcap is of type bool", {"softcap": True}),
    (TypeError, "causal is of type float", {"causal": 1.0}),
    (TypeError, "causal is of type NoneType", {"causal": None}),
    (TypeError, "q_position is of type bool", {"q_position": True}),
    (TypeError, "window is of type int", {"window": 3}),
    (TypeError, "window left is of type float", {"window": (1.0, 0)}),
    (TypeError, "normalizer is of type NoneType", {"normalizer": None}),
    (TypeError, "num_threads is of type float", {"num_threads": 1.0}),
    (TypeError, "isa is of type int", {"isa": 2}),
    (TypeError, "return_lse is of type str", {"return_lse": "yes"}),
    (TypeError, "dropout", {"dropout": 0.1}),
]


@pytest.mark.parametrize("kind, message, options", REFUSED, ids=[m for _, m, _ in REFUSED])
def test_options(kind, message, options):
    out = np.full(q.shape, 7, np.float32)
    with pytest.raises(kind, match=message):
        attn.attention(q, k, v, **{"out": out, **options})
    assert (out == 7).all()
    if not {"out", "return_lse", "num_threads", "isa", "dropout"} & set(options):
        with pytest.raises(kind, match=message):
            attn.Plan(q, k, v, **options).run(q, k, v)
        with pytest.raises((attn.Error, TypeError)):
            attn.attention_backward(out, q, k, v, out, out[..., 0], **options)


def test_shapes():
    with pytest.raises(attn.Error, match="q has shape .* of rank 3"):
        attn.attention(q[0], k, v)
    with pytest.raises(attn.Error, match="v has shape .* of rank 2"):
        attn.attention(q, k, v[0, 0])
    with pytest.raises(attn.Error, match="k has shape"):
        attn.attention(q, k[:, :, :, :4], v)
    with pytest.raises(attn.Error, match="k has shape"):
        attn.attention(q, k[:1], v)
    with pytest.raises(attn.Error, match="v has type f16"):
        attn.attention(q, k, v.astype(np.float16))


def test_an_error_is_a_value_error():
    assert issubclass(attn.Error, ValueError) and attn.Error.__module__ == "attn"


def test_unsupported():
    if attn.info()["onednn"] is None:
        with pytest.raises(NotImplementedError, match="no oneDNN"):
            attn.attention(q, k, v, score_matmul="onednn")
    np.testing.assert_array_equal(
        attn.attention(q, k, v, score_matmul="attn"), attn.attention(q, k, v)
    )


def test_backward():
    out, lse = attn.attention(q, k, v, return_lse=True)
    with pytest.raises(attn.Error, match="lse is missing"):
        attn.attention_backward(out, q, k, v, out, None)
    with pytest.raises(attn.Error, match="out is missing"):
        attn.attention_backward(out, q, k, v, None, lse)
    with pytest.raises(TypeError, match="dout is None"):
        attn.attention_backward(None, q, k, v, out, lse)
    with pytest.raises(attn.Error, match="dout has shape"):
        attn.attention_backward(out[:1], q, k, v, out, lse)
    with pytest.raises(attn.Error, match="dlse"):
        attn.attention_backward(out, q, k, v, out, lse, dlse=out)
    with pytest.raises(TypeError, match="return_lse"):
        attn.attention_backward(out, q, k, v, out, lse, return_lse=True)


@pytest.mark.parametrize("number", [0, -1])
def test_set_num_threads(number):
    with pytest.raises(attn.Error, match="num_threads"):
        attn.set_num_threads(number)
    with pytest.raises(TypeError, match="num_threads"):
        attn.set_num_threads("2")
