"""What serves as an array, and what does not."""

import array
import ctypes

import attn
import numpy as np
import pytest

rng = np.random.default_rng(11)
q, k, v = (rng.standard_normal((1, 2, 5, 8)).astype(np.float32) for _ in range(3))
expected = attn.attention(q, k, v)


class Exporter:
    """An array of a library that nobody knows, which exports DLPack in one of its forms."""

    def __init__(self, array, versioned=True, device=(1, 0)):
        self.array, self.versioned, self.device = array, versioned, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **arguments):
        if not self.versioned and "max_version" in arguments:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.array.__dlpack__(**arguments)


class Interface:
    def __init__(self, array):
        self.array = array
        self.dtype = array.dtype
        self.__array_interface__ = array.__array_interface__


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    "wrap",
    [
        memoryview,
        Exporter,
        lambda a: Exporter(a, versioned=False),
        Interface,
        read_only,
        lambda a: Exporter(read_only(a)),
        lambda a: (ctypes.c_float * 8 * 5 * 2 * 1).from_buffer_copy(a),
        lambda a: Exporter(np.asfortranarray(a)),
        lambda a: Interface(np.asfortranarray(a)),
    ],
    ids=[
        "buffer",
        "dlpack",
        "dlpack 0",
        "interface",
        "read-only",
        "read-only dlpack",
        "ctypes",
        "strided dlpack",
        "strided interface",
    ],
)
def test_exporters(wrap):
    np.testing.assert_array_equal(attn.attention(q, wrap(k), wrap(v)), expected)
    out = np.empty_like(expected)
    assert attn.attention(wrap(q), k, v, out=out) is out
    np.testing.assert_array_equal(out, expected)
    if not isinstance(wrap(q), np.ndarray):
        with pytest.raises(TypeError, match="needs out="):
            attn.attention(wrap(q), k, v)


def test_bfloat16_by_its_interface():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    inputs = [x.astype(ml_dtypes.bfloat16) for x in (q, k, v)]
    out = attn.attention(*inputs)
    assert out.dtype == ml_dtypes.bfloat16
    assert np.abs(out.astype(np.float32) - expected).max() < 2e-2
    np.testing.assert_array_equal(attn.attention(inputs[0], Interface(inputs[1]), inputs[2]), out)
    with pytest.raises(attn.Error, match="q has type"):
        attn.attention(q.astype(ml_dtypes.float8_e4m3fn), k, v)
    with pytest.raises(attn.Error, match="q has type"):
        attn.attention(np.zeros(q.shape, "V2"), k, v)


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, "q", b"qqqq", bytearray(4), [[[[1.0]]]], {}, np.ndarray, object(), len]
)
def test_no_arrays(value):
    for place in range(3):
        arguments = [q, k, v]
        arguments[place] = value
        with pytest.raises(TypeError, match="qkv"[place] + " is"):
            attn.attention(*arguments)
    if value is not None:
        with pytest.raises(TypeError, match="mask is"):
            attn.attention(q, k, v, mask=value)
        with pytest.raises(TypeError, match="out is"):
            attn.attention(q, k, v, out=value)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64,
        np.int8,
        np.int32,
        np.uint8,
        np.uint16,
        np.complex64,
        bool,
        ">f4",
        "U3",
        "M8[s]",
        object,
        [("a", np.float32)],
    ],
)
def test_wrong_types(dtype):
    with pytest.raises(attn.Error, match="q has type"):
        attn.attention(np.zeros(q.shape, dtype), k, v)


def test_wrong_memory():
    out = read_only(expected)
    with pytest.raises(attn.Error, match="out is read-only"):
        attn.attention(q, k, v, out=out)
    with pytest.raises(attn.Error, match="out is read-only"):
        attn.attention(q, k, v, out=Exporter(out))
    with pytest.raises(attn.Error, match="out lies in the memory of k"):
        attn.attention(q, k, v, out=k)
    both = np.zeros((1, 2, 10, 8), np.float32)
    with pytest.raises(attn.Error, match="out lies in the memory of q"):
        attn.attention(both[:, :, 2:7], k, v, out=both[:, :, 5:])
    packed = np.stack([q, q], 3)
    np.testing.assert_array_equal(
        attn.attention(packed[..., 0, :], k, v, out=packed[..., 1, :]), expected
    )
    with pytest.raises(attn.Error, match="out .* stride 0"):
        attn.attention(q, k, v, out=np.lib.stride_tricks.as_strided(both, q.shape, (0, 0, 0, 4)))
    unaligned = np.zeros(q.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(q.shape)
    with pytest.raises(attn.Error, match="q .* address"):
        attn.attention(unaligned, k, v)
    fields = np.zeros(q.shape, [("a", np.float32), ("b", np.uint8)])["a"]
    with pytest.raises(attn.Error, match="q has a stride of 5 bytes"):
        attn.attention(fields, k, v)
    with pytest.raises(TypeError, match="q is a masked array"):
        attn.attention(np.ma.masked_array(q, q > 0), k, v)
    for device in (2, 2**32 + 1):
        with pytest.raises(NotImplementedError, match="q is on a device"):
            attn.attention(Exporter(q, device=(device, 0)), k, v)
    with pytest.raises(attn.Error, match="rank 9"):
        attn.softmax(np.zeros((1,) * 9, np.float32))
    with pytest.raises(MemoryError):
        attn.attention(np.broadcast_to(q[:, :, :1], (1, 2, 2**42, 8)), k, v)


@pytest.mark.parametrize(
    "kind, message, entries",
    [
        (attn.Error, "strides that are not one for each dim", {"strides": (4,)}),
        (attn.Error, "strides that are not one for each dim", {"strides": (320, 160, 32, 4, 4)}),
        (attn.Error, "negative", {"shape": (-1, 2, 5, 8)}),
        (attn.Error, "no data", {"data": (0, False)}),
        (TypeError, "q has a mask", {"mask": q > 0}),
        (TypeError, "q is of type", {"data": None}),
    ],
)
def test_wrong_interfaces(kind, message, entries):
    wrong = Interface(q)
    wrong.__array_interface__ = {**wrong.__array_interface__, **entries}
    with pytest.raises(kind, match=message):
        attn.attention(wrong, k, v, out=np.empty_like(q))


def test_arrays_are_given_back():
    data = array.array("f", [0] * 8)
    x = memoryview(data).cast("B").cast("f", [1, 1, 4, 2])
    out = np.empty((1, 1, 4, 2), np.float32)
    attn.attention(x, x, x, out=out)
    x.release()
    data.append(1)  # refused while the memory is exported


def test_empty_arrays():
    assert attn.attention(q[:0], k[:0], v[:0]).shape == (0, 2, 5, 8)
    assert attn.attention(q[:, :, :0], k, v).shape == (1, 2, 0, 8)
    out, lse = attn.attention(q, k[:, :, :0], v[:, :, :0], return_lse=True)
    assert (out == 0).all() and (lse == -np.inf).all()
    with pytest.raises(attn.Error, match="head_dim is 0"):
        attn.attention(q[..., :0], k[..., :0], v)
