"""attention(), its gradients, plans and merge on NumPy arrays."""

import inspect
import subprocess
import sys

import attn
import numpy as np
import pytest
from reference import attention as reference

rng = np.random.default_rng(7)


def arrays(*shapes):
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


q, k, v = arrays((2, 4, 9, 16), (2, 2, 13, 16), (2, 2, 13, 8))


OPTIONS = {
    "plain": {},
    "scale": {"scale": 0.5},
    "scale of 0": {"scale": 0},
    "softcap": {"softcap": 2.0},
    "causal": {"causal": True},
    "bottom right": {"causal": "bottom_right"},
    "top left": {"causal": "top_left"},
    "offset 0": {"causal": 0},
    "offset 1": {"causal": 1},
    "negative offset": {"causal": -3},
    "window": {"window": (3, 1)},
    "half a window": {"window": (2, None), "causal": True},
    "position": {"window": (2, 2), "q_position": 4},
    "position by name": {"window": (2, 2), "q_position": "top_left"},
    "rank 1 mask": {"mask": rng.random(13) > 0.4},
    "bool mask": {"mask": rng.random((2, 1, 9, 13)) > 0.4},
    "float mask": {"mask": rng.standard_normal((4, 9, 13)).astype(np.float32)},
    "f16 mask": {"mask": rng.standard_normal((9, 1)).astype(np.float16)},
    "alibi": {"alibi_slopes": np.array([0.5, 0.25, 0.125, 1], np.float32), "causal": True},
    "lengths": {"kv_lens": np.array([5, 0])},
    "i32 lengths": {"kv_lens": np.array([13, 7], np.int32), "causal": True},
    "sinks": {"sinks": np.array([0.1, -1, 2, 0], np.float32), "causal": -2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_options(options):
    expected, expected_lse = reference(q, k, v, **options)
    out, lse = attn.attention(q, k, v, return_lse=True, **options)
    assert out.dtype == lse.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(attn.attention(q, k, v, **options), out)


def test_causal_true_is_not_one():
    square = arrays(*[(1, 1, 5, 4)] * 3)
    by_bool, by_number = (attn.attention(*square, causal=c) for c in (True, 1))
    assert not np.array_equal(by_bool, by_number)
    np.testing.assert_array_equal(by_number, attn.attention(*square, causal=np.int64(1)))
    np.testing.assert_array_equal(by_bool, attn.attention(*square, causal=np.True_))


def test_signature():
    names = list(inspect.signature(attn.attention).parameters)
    assert (
        names
        == (
            "q k v scale softcap causal q_position window mask alibi_slopes kv_lens sinks "
            "normalizer alpha sigmoid_bias block_mask score_matmul out return_lse num_threads isa"
        ).split()
    )


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_16_bit(dtype):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if dtype == "bfloat16" else dtype
    inputs = [x.astype(dtype) for x in (q, k, v)]
    out, lse = attn.attention(*inputs, return_lse=True)
    assert out.dtype == dtype and lse.dtype == np.float32
    expected, expected_lse = reference(*(x.astype(np.float64) for x in inputs))
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=0, atol=2e-2)
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-5)
    wide = np.empty(out.shape, np.float32)
    assert attn.attention(*inputs, out=wide) is wide
    assert np.abs(wide - expected).max() <= np.abs(out.astype(np.float64) - expected).max() + 1e-6


def test_strides_are_read_in_place():
    expected = attn.attention(q, k, v)
    interleaved = np.ascontiguousarray(q.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    backward_keys = np.ascontiguousarray(k[..., ::-1])[..., ::-1]
    apart = np.zeros((2, 2, 13, 16), np.float32)[..., ::2]
    apart[:] = v
    np.testing.assert_array_equal(attn.attention(interleaved, backward_keys, apart), expected)
    spread = np.full((2, 4, 9, 16), np.nan, np.float32)
    assert attn.attention(q, k, v, out=spread[..., ::2]).base is spread
    np.testing.assert_array_equal(spread[..., ::2], expected)
    assert np.isnan(spread[..., 1::2]).all()


def test_normalizers():
    s = np.einsum("bhqd,bhkd->bhqk", q.astype(float), np.repeat(k, 2, 1)) / 4
    values = np.repeat(v, 2, 1).astype(float)
    sigmoid = attn.attention(q, k, v, normalizer="sigmoid", sigmoid_bias=-1.0)
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(1 - s)) @ values, atol=1e-5)
    by_length = attn.attention(q, k, v, normalizer="sigmoid")
    np.testing.assert_allclose(by_length, 1 / (1 + 13 * np.exp(-s)) @ values, atol=1e-5)
    for name, function in [("sparsemax", attn.sparsemax), ("entmax15", attn.entmax15)]:
        expected = function(s.astype(np.float32)) @ values
        np.testing.assert_allclose(attn.attention(q, k, v, normalizer=name), expected, atol=1e-5)
    one = attn.attention(q, k, v, normalizer="entmax", alpha=1)
    np.testing.assert_array_equal(one, attn.attention(q, k, v))


def test_backward_is_the_derivative():
    options = dict(
        softcap=3.0,
        causal=True,
        mask=rng.standard_normal((1, 4, 1, 13)).astype(np.float32),
        alibi_slopes=np.array([0.5, 0.25, 0.125, 1], np.float32),
        sinks=np.array([0.1, -1, 2, 0], np.float32),
    )
    dout, dlse = arrays((2, 4, 9, 8), (2, 4, 9))
    out, lse = attn.attention(q, k, v, return_lse=True, **options)
    gradients = attn.attention_backward(dout, q, k, v, out, lse, dlse=dlse, **options)

    def loss(tensors):
        o, l = reference(
            tensors["q"],
            tensors["k"],
            tensors["v"],
            softcap=3.0,
            causal=True,
            mask=tensors["mask"],
            alibi_slopes=tensors["alibi_slopes"],
            sinks=tensors["sinks"],
        )
        return (o * dout).sum() + (l * dlse).sum()

    tensors = {"q": q, "k": k, "v": v, **{n: options[n] for n in ("mask", "alibi_slopes", "sinks")}}
    tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
    named = dict(zip(("q", "k", "v", "mask", "alibi_slopes", "sinks"), gradients))
    for name, gradient in named.items():
        assert gradient.shape == tensors[name].shape and gradient.dtype == np.float32
        direction = rng.standard_normal(gradient.shape)
        step = 1e-5
        sides = [loss({**tensors, name: tensors[name] + x * direction}) for x in (step, -step)]
        expected = (sides[0] - sides[1]) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-4, abs=1e-3), name


def test_backward_leaves_out_what_is_not_there():
    out, lse = attn.attention(q, k, v, return_lse=True, mask=np.ones(13, bool))
    gradients = attn.attention_backward(out, q, k, v, out, lse, mask=np.ones(13, bool))
    assert gradients.dmask is gradients.dalibi is gradients.dsinks is None
    sparse = attn.attention_backward(out, q, k, v, None, None, normalizer="sparsemax")
    assert sparse.dq.shape == q.shape


def test_merge():
    expected, expected_lse = attn.attention(q, k, v, return_lse=True)
    parts = [
        attn.attention(q, k[:, :, a:b], v[:, :, a:b], return_lse=True)
        for a, b in [(0, 4), (4, 4), (4, 13)]
    ]
    out, lse = attn.merge([o for o, _ in parts], [l for _, l in parts])
    np.testing.assert_allclose(out, expected, atol=2e-6)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-6)
    with pytest.raises(attn.Error, match="outs is empty"):
        attn.merge([], [])
    for wrong in (None, "outs", {0: out}, iter([out])):
        with pytest.raises(TypeError, match="outs is of type"):
            attn.merge(wrong, [lse])
    with pytest.raises(attn.Error, match="lses has 1"):
        attn.merge([out, out], [lse])


def test_plan():
    plan = attn.Plan(q, k, v, causal=True, num_threads=1)
    other = arrays(q.shape, k.shape, v.shape)
    for inputs in ((q, k, v), other):
        expected = attn.attention(*inputs, causal=True, return_lse=True)
        np.testing.assert_array_equal(plan.run(*inputs), expected[0])
        for got, wanted in zip(plan.run(*inputs, return_lse=True), expected):
            np.testing.assert_array_equal(got, wanted)
    half = np.empty(expected[0].shape, np.float16)
    assert plan.run(*other, out=half) is half
    np.testing.assert_array_equal(half, expected[0].astype(np.float16))
    assert plan.num_threads == 1 and plan.workspace_size > 0 and "tiled" in plan.description
    for longer in (False, True):
        with pytest.raises(attn.Error, match="the plan was made for"):
            plan.run(np.concatenate([q, q], 2), k, v, return_lse=longer)
    with pytest.raises(TypeError, match="return_lse"):
        attn.Plan(q, k, v, return_lse=True)


def test_block_mask():
    documents = np.repeat([3, 1, 2], [4, 4, 1])
    keys = np.repeat([1, 3], [6, 7])
    mask = attn.BlockMask.from_documents(documents, keys, block_size=(4, 4))
    seen = documents[:, None] == keys
    np.testing.assert_array_equal(
        attn.attention(q, k, v, block_mask=mask), attn.attention(q, k, v, mask=seen)
    )
    assert mask.density == pytest.approx(seen.mean()) and sum(mask.counts) == 12
    ranges = attn.BlockMask.from_ranges([(0, 9, 2, 5)], 9, 13)
    np.testing.assert_allclose(
        attn.attention(q, k, v, block_mask=ranges),
        attn.attention(q, k[:, :, 2:5], v[:, :, 2:5]),
        atol=1e-6,
    )
    summary = attn.BlockMask.from_mask(seen, 9, 13)
    with pytest.raises(attn.Error, match="mask is missing"):
        attn.attention(q, k, v, block_mask=summary)
    with pytest.raises(TypeError, match="block_mask is of type"):
        attn.attention(q, k, v, block_mask=seen)


def test_threads_and_isas_change_no_bits():
    inputs = arrays((1, 4, 200, 32), (1, 4, 300, 32), (1, 4, 300, 32))
    for isa in attn.info()["isas"]:
        one = attn.attention(*inputs, isa=isa, num_threads=1)
        np.testing.assert_array_equal(one, attn.attention(*inputs, isa=isa, num_threads=2))


def test_set_num_threads():
    program = (
        "import attn, array; attn.set_num_threads(3);"
        "assert attn.get_num_threads() == attn.info()['num_threads'] == 3;"
        "x = memoryview(bytearray(2**20)).cast('f', [1, 4, 512, 128]);"
        "assert attn.Plan(x, x, x).num_threads <= 3; attn.set_num_threads(1);"
        "assert attn.Plan(x, x, x).num_threads == 1;"
        "assert attn.Plan(x, x, x, num_threads=2).num_threads == 2"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd="/")


def test_import_is_light():
    program = (
        "import sys, array, attn; assert not {'numpy', 'torch'} & set(sys.modules);"
        "x = memoryview(array.array('f', range(6))).cast('B').cast('f', [1, 1, 3, 2]);"
        "out = memoryview(bytearray(24)).cast('f', [1, 1, 3, 2]);"
        "o, lse = attn.attention(x, x, x, causal=True, out=out, return_lse=True);"
        "assert o is out and o.tolist()[0][0][0] == [0.0, 1.0] and lse.shape == (1, 1, 3);"
        "assert not {'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd="/")


def test_info():
    info = attn.info()
    assert set(info) == {"version", "compiler", "onednn", "isa", "isas", "num_threads"}
    assert info["isa"] in info["isas"] and info["version"] == attn.__version__
