"""No call crashes, leaks or stays behind: wrong arguments at random, many calls, threads, forks."""

import gc
import os
import random
import subprocess
import sys
import threading

import attn
import numpy as np
import pytest

EXPECTED = (attn.Error, TypeError, NotImplementedError, MemoryError)
q = np.random.default_rng(31).standard_normal((2, 4, 6, 8)).astype(np.float32)


def torch_values():
    torch = sys.modules.get("torch")
    if torch is None:
        try:
            import torch
        except ImportError:
            return []
    t = torch.randn(2, 4, 6, 8)
    return [
        t,
        t.to("meta"),
        t.bfloat16(),
        t.double(),
        t.to(torch.int64),
        t.to_sparse(),
        t[..., ::2],
        t.to(torch.complex64).conj(),
        t[:, :, :0],
        torch.tensor(1.0),
        t.requires_grad_(),
        t[0, 0],
        torch.empty(0),
        t.expand(3, 2, 4, 6, 8),
        torch.quantize_per_tensor(t.detach(), 1.0, 0, torch.qint8),
        t.to(torch.float8_e4m3fn),
        torch.ones(6, dtype=torch.bool),
        torch.float32,
    ]


def values():
    strange = np.lib.stride_tricks.as_strided
    return [
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        2**50,
        2**63,
        -(2**70),
        0.0,
        0.5,
        -1.0,
        float("nan"),
        float("inf"),
        1e300,
        "softmax",
        "top_left",
        "bottom_right",
        "sigmoid",
        "entmax",
        "",
        "\ud800",
        b"x",
        (),
        (1, 2),
        (None, None),
        (0, 0),
        (-1, 3),
        [3, None],
        {},
        object(),
        attn,
        np.float32(2),
        np.int64(1),
        q,
        q[:1],
        q[0],
        q[0, 0, 0],
        q[:, :2],
        q[..., :4],
        q[..., ::-1],
        q[:, :, :0],
        q.astype(np.float16),
        q.astype(np.float64),
        q.astype(np.int32),
        q.astype(">f4"),
        q > 0,
        q.transpose(0, 2, 1, 3),
        np.float32(1).reshape(()),
        np.zeros((2,) * 9, np.float32),
        strange(q, (2, 4, 6, 8), (0, 0, 0, 0)),
        strange(q, (2, 4, 2**46, 8), (0, 0, 0, 4)),
        strange(q, (2**20, 2**30), (0, 0)),
        np.arange(2),
        np.arange(2, dtype=np.int32),
        np.ones(4, np.float32),
        np.full((6, 6), -np.inf, np.float32),
        np.array(["a"]),
        np.array([None]),
        memoryview(q),
        memoryview(b"abcd"),
        iter([1]),
        ValueError,
        np.empty_like(q),
        10**5000,
    ]


OPTIONS = (
    "scale softcap causal q_position window mask alibi_slopes kv_lens sinks normalizer alpha "
    "sigmoid_bias block_mask score_matmul num_threads isa"
).split()


def torch_calls(chance, some):
    torch = sys.modules["torch"]
    fa, sdpa = attn.flash_attn, attn.torch.scaled_dot_product_attention
    with torch.no_grad():
        t = torch.ones(2, 4, 6, 8)
        cache = torch.zeros(2, 8, 6, 8)
    ends = torch.tensor([0, 2, 4], dtype=torch.int32)

    def options():
        names = "dropout_p softmax_scale causal window_size softcap alibi_slopes".split()
        return {name: some(None) for name in chance.sample(names, chance.randrange(2))}

    return [
        lambda: sdpa(some(t), some(t), some(t), some(None), some(0.0), some(False), some(None)),
        lambda: fa.flash_attn_func(some(t), some(t), some(t), **options()),
        lambda: fa.flash_attn_kvpacked_func(some(t), some(torch.stack([t, t], 2)), **options()),
        lambda: fa.flash_attn_qkvpacked_func(some(torch.stack([t, t, t], 2)), **options()),
        lambda: fa.flash_attn_varlen_func(
            some(t[0]),
            some(t[0]),
            some(t[0]),
            some(ends),
            some(ends),
            some(2),
            some(2),
            **options(),
            block_table=some(None),
        ),
        lambda: fa.flash_attn_varlen_qkvpacked_func(
            some(torch.stack([t[0]] * 3, 1)), some(ends), some(2), **options()
        ),
        lambda: fa.flash_attn_with_kvcache(
            some(t),
            some(cache),
            some(cache),
            some(t),
            some(t),
            some(None),
            some(None),
            some(1),
            some(None),
            some(None),
            some(None),
            some(None),
            some(False),
            some((-1, -1)),
        ),
        lambda: attn.transformers.attention_forward(
            torch.nn.Module(), some(t), some(t), some(t), some(None), some(0.0), some(None)
        ),
    ]


def is_count(value):
    """Whether it could be a number of threads, which other tests would meet."""
    return isinstance(value, (int, np.integer)) and value >= 1


def one_call(chance, pool):
    """A call whose arguments are right with a chance, and anything otherwise."""

    def some(right):
        return right if chance.random() < 0.5 else chance.choice(pool)

    def options(count=3):
        return {
            name: chance.choice(pool) for name in chance.sample(OPTIONS, chance.randrange(count))
        }

    output = {"out": some(None), "return_lse": chance.random() < 0.3}
    cache = attn.KVCache(2, 4, 8, 8)
    paged = attn.PagedKVCache(8, 2, 4, 8)
    calls = [
        lambda: attn.attention(some(q), some(q), some(q), **options(), **output),
        lambda: attn.attention(some(q), some(q), some(q), **options(), **output),
        lambda: attn.attention_backward(
            some(q),
            some(q),
            some(q),
            some(q),
            some(q),
            some(q[..., 0]),
            dlse=some(None),
            **options(),
        ),
        lambda: attn.Plan(some(q), some(q), some(q), **options()).run(
            some(q), some(q), some(q), some(None)
        ),
        lambda: attn.merge(some([q, q]), some([q[..., 0]] * 2)),
        lambda: attn.merge([some(q), some(q)], [some(q[..., 0]), some(q[..., 0])]),
        lambda: (cache.append(some(q), some(q)), cache.attention(some(q), **options(), **output)),
        lambda: (cache.length(some(0)), cache.truncate(some(0), some(0))),
        lambda: attn.KVCache(
            some(1), some(2), some(8), some(8), some(None), some("f32"), some(True)
        ),
        lambda: attn.PagedKVCache(some(1), some(2), some(8), some(8), some(None), some("f32")),
        lambda: (
            paged.create(),
            paged.append(some(0), some(q[0]), some(q[0])),
            paged.attention(some(q[:1]), some([0]), **options(), **output),
        ),
        lambda: (paged.fork(some(0)), paged.truncate(some(0), some(0)), paged.remove(some(0))),
        lambda: getattr(attn, chance.choice(["softmax", "log_softmax", "logsumexp"]))(
            some(q), some(-1), temperature=some(1.0), out=some(None)
        ),
        lambda: attn.entmax(some(q), some(-1), alpha=some(1.5)),
        lambda: attn.cross_entropy(
            some(q),
            some(np.zeros((2, 6, 8), int)),
            weight=some(None),
            ignore_index=some(None),
            label_smoothing=some(0.0),
            reduction=some("mean"),
        ),
        lambda: attn.rms_norm(some(q), some(None), some(-1), some(1e-5), out=some(None)),
        lambda: attn.layer_norm(some(q), some(None), some(None), some(-1), some(1e-5)),
        lambda: attn.BlockMask.from_documents(
            some(np.arange(6)), some(np.arange(6)), some((64, 64))
        ),
        lambda: attn.BlockMask.from_ranges(some([(0, 1, 0, 1)]), some(6), some(6), some((4, 4))),
        lambda: attn.BlockMask.from_mask(
            some(np.ones(6, bool)), some(6), some(6), some(1), some(1)
        ),
        lambda: attn.set_num_threads(chance.choice([x for x in pool if not is_count(x)])),
    ]
    if "torch" in sys.modules:
        calls += torch_calls(chance, some)
    chance.choice(calls)()


def test_fuzz():
    """10,000 calls with the same random numbers in each run."""
    chance = random.Random(37)
    pool = [*values(), *torch_values()]
    outcomes = {True: 0, False: 0}
    for number in range(10_000):
        try:
            one_call(chance, pool)
            outcomes[True] += 1
        except EXPECTED as error:
            assert str(error), number
            outcomes[False] += 1
    assert min(outcomes.values()) > 500
    np.testing.assert_allclose(attn.softmax(q).sum(-1), 1, atol=1e-6)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_no_leak():
    small = q[:1, :1, :2]
    out = np.empty_like(small)
    view = memoryview(small)
    cache = attn.KVCache(1, 1, 4, 8)

    def calls(number):
        for _ in range(number):
            attn.attention(small, small, small, return_lse=True, mask=np.ones(2, bool))
            attn.attention(view, view, small, out=out)
            cache.clear()
            cache.append(small, small)
            cache.attention(small)
            for wrong in (None, small[0]):
                with pytest.raises((attn.Error, TypeError)):
                    attn.attention(small, wrong, small)

    calls(2000)
    gc.collect()
    before = resident()
    calls(12_500)  # of eight calls each
    gc.collect()
    assert resident() - before < 2 << 20


def test_threads_of_python():
    expected = attn.attention(q, q, q)
    cache = attn.KVCache(2, 4, 6, 8)
    cache.append(q, q)
    plan = attn.Plan(q, q, q)
    wrong = []

    def work():
        for _ in range(200):
            for result in (attn.attention(q, q, q), plan.run(q, q, q), cache.attention(q)):
                if np.abs(result - expected).max() > 1e-6:
                    wrong.append(result)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORK = """
import os, sys, attn, numpy as np
x = np.random.default_rng(0).standard_normal((1, 4, 300, 64)).astype(np.float32)
expected = attn.attention(x, x, x, num_threads=2)
child = os.fork()
same = bool((attn.attention(x, x, x, num_threads=2) == expected).all())
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

INTERRUPT = """
import os, signal, threading, time, attn, numpy as np
x = np.random.default_rng(0).standard_normal((1, 8, 2000, 64)).astype(np.float32)
expected = attn.attention(x, x, x)
threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    end = time.time() + 60
    while time.time() < end:
        attn.attention(x, x, x)
    raise SystemExit("no KeyboardInterrupt")
except KeyboardInterrupt:
    pass
assert (attn.attention(x, x, x) == expected).all()
"""

RELEASED = """
import threading, attn, numpy as np
x = np.random.default_rng(0).standard_normal((1, 8, 3000, 64)).astype(np.float32)
ticks, done = 0, False
def call():
    global done
    attn.attention(x, x, x, num_threads=1)
    done = True
thread = threading.Thread(target=call)
thread.start()
while not done:
    ticks += 1
thread.join()
assert ticks > 1000, ticks
"""


@pytest.mark.parametrize("program", [FORK, INTERRUPT, RELEASED], ids=["fork", "interrupt", "gil"])
def test_processes(program):
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
